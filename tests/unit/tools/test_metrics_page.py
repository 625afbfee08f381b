"""docs/metrics.md is up to date."""

from tools import metrics_page


def test_the_page_on_metrics_is_what_the_code_makes():
    assert metrics_page.PAGE.read_text() == metrics_page.page()
