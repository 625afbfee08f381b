from flaremesh.provision import contract


def test_the_page_on_metrics_is_what_the_code_makes():
    assert contract.PAGE.read_text() == contract.page()
