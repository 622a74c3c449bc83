"""What is kept of an executed notebook's outputs: no bar, and a name for each styled table that its content gives."""

import nbformat

from sua.study import executed


def shown(**data):
    return executed._output(nbformat.v4.new_output("display_data", data=data))


def test_a_bar_is_dropped_however_it_was_shown():
    assert shown(**{"text/plain": "loading:   0%|          | 0/272 [00:00<?, ?it/s]"}) is None
    assert shown(**{"text/plain": "50% of 3"}).data == {"text/plain": "50% of 3"}


def test_a_styled_table_is_named_by_its_content():
    one, other = (shown(**{"text/html": f'<table id="T_{name}"><td id="T_{name}_row0">OPT_1</td></table>'})
                  for name in ("29eb6", "9668c"))
    assert one == other and "29eb6" not in one.data["text/html"] and "OPT_1" in one.data["text/html"]
