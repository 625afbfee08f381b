"""The model of train.py: built from a configuration, with random weights."""

from transformers import BertConfig, BertForSequenceClassification


class Net(BertForSequenceClassification):
    """A tiny transformer that reads the rows of a digit as words."""

    def __init__(self) -> None:
        super().__init__(
            BertConfig(
                vocab_size=17,
                hidden_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=64,
                max_position_embeddings=64,
                num_labels=10,
            )
        )
