"""Conversations: the text of the chat template, and the spans of the assistant's turns."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import TinyTokenizer
from trimlab.data.domain import DomainData
from trimlab.data.items import Item
from trimlab.data.rows import Row
from trimlab.data.splits import read_test_set
from trimlab.data.task import load_task
from trimlab.errors import InputError

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{% for m in messages %}"
    "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
LLAMA_2 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token }}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }} {{ eos_token }}{% endif %}{% endfor %}"
)
PLAIN = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
# as Qwen 3's: an empty thought in front of the last answer alone
THOUGHT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if loop.last and m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# as DeepSeek R1's: thoughts are asked for, and removed from what was said before
ASKS_FOR_THOUGHTS = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
REMOVES_THOUGHTS = CHATML.replace(
    "{{ m.content }}", "{{ m.content if loop.last else m.content.split('</think>')[-1] }}"
)

TURNS = [
    {"role": "user", "content": "Who?"},
    {"role": "assistant", "content": "The owl."},
    {"role": "user", "content": "The owl.<|im_end|>"},
    {"role": "assistant", "content": " Yes. "},
]


def item_of(tokenizer: Any, template: str, **columns: Any) -> Item:
    tokenizer.chat_template = template
    task = load_task("chat").with_tokenizer(tokenizer)
    return task.checked_item(Row(columns, "rows.jsonl:1"), "authors")


def spans_of(item: Item) -> list[str]:
    return [item.choices[0][start:end] for start, end in item.scored]


@pytest.mark.parametrize(
    ("template", "context", "spans"),
    [
        (
            CHATML,
            "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant",
            ["The owl.<|im_end|>", " Yes. <|im_end|>"],
        ),
        (
            GEMMA,
            "<s><start_of_turn>user\nWho?<end_of_turn>\n<start_of_turn>model",
            ["The owl.<end_of_turn>", "Yes.<end_of_turn>"],
        ),
        (LLAMA_2, "<s>[INST] Who? [/INST]", [" The owl. </s>", "  Yes.  </s>"]),
        # nothing but a line break ends a turn
        (PLAIN, "user: Who?\nassistant:", [" The owl.\n", "  Yes. \n"]),
        (
            THOUGHT,
            "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant",
            ["The owl.<|im_end|>", "<think>\n\n</think>\n\n Yes. <|im_end|>"],
        ),
    ],
    ids=["chatml", "gemma", "llama2", "plain", "thought"],
)
def test_only_the_turns_of_the_assistant_are_scored(
    template: str, context: str, spans: list[str], tiny_tokenizer: TinyTokenizer
):
    tokenizer = tiny_tokenizer()
    later = {"role": "user", "content": "Nobody answers this."}
    item = item_of(tokenizer, template, messages=[*TURNS, later])
    assert item.context == context and item.gold == 0
    assert spans_of(item) == spans
    whole = tokenizer.apply_chat_template(TURNS, tokenize=False)
    assert isinstance(whole, str) and item.context + item.choices[0] == whole[: len(whole)].rstrip(
        "" if template == PLAIN else "\n"
    )
    # what comes before each turn is what the model sees when it is asked
    for number, (start, _) in enumerate(item.scored):
        asked = tokenizer.apply_chat_template(
            TURNS[: 2 * number + 1], tokenize=False, add_generation_prompt=True
        )
        assert item.context + item.choices[0][:start] == asked


def test_sharegpt_and_a_system_turn(tiny_tokenizer: TinyTokenizer):
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    turns = [{"role": "system", "content": "Be brief."}, *TURNS]
    conversations = [{"from": names[t["role"]], "value": t["content"]} for t in turns]
    item = item_of(tiny_tokenizer(), CHATML, conversations=conversations, messages=None)
    assert item == item_of(tiny_tokenizer(), CHATML, messages=turns)
    assert item.context.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user")


def test_the_date_of_today_is_not_in_a_prompt(tiny_tokenizer: TinyTokenizer):
    item = item_of(tiny_tokenizer(), "{{ strftime_now('%d %b %Y') }} " + CHATML, messages=TURNS)
    assert item.context.startswith("26 Jul 2024 <|im_start|>")


USER, ASSISTANT = TURNS[:2]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": "a"}, "neither messages nor conversations; its columns are: text"),
        ({"messages": TURNS, "conversations": TURNS}, "both messages and conversations"),
        ({"messages": []}, "'messages' must be a list of turns"),
        ({"messages": "Who?"}, "'messages' must be a list of turns"),
        ({"messages": ["Who?"]}, "turn 1 of 'messages' must have 'role' and 'content'"),
        ({"messages": [{"from": "human", "value": "a"}]}, "must have 'role' and 'content'"),
        ({"messages": [USER, {"role": "tool", "content": "a"}]}, "turn 2 of 'messages' is from"),
        ({"messages": [{**USER, "role": ["user"]}, ASSISTANT]}, "turn 1 of 'messages' is from"),
        ({"messages": [{**USER, "role": {}}, ASSISTANT]}, "turn 1 of 'messages' is from"),
        ({"messages": [{**USER, "content": "cut \ud83d"}, ASSISTANT]}, "a broken character"),
        ({"messages": [USER, {**ASSISTANT, "content": None}]}, "turn 2 of 'messages': 'content'"),
        ({"messages": [USER, {**ASSISTANT, "content": " "}]}, "must be a text that is not empty"),
        ({"messages": [USER, {**ASSISTANT, "weight": 0}]}, "turn 2 of 'messages' has 'weight'"),
        ({"messages": [USER, {**ASSISTANT, "tool_calls": [{}]}]}, "has 'tool_calls'"),
        ({"messages": [USER]}, "'messages' has no turn of the assistant"),
        ({"messages": [ASSISTANT, USER, ASSISTANT]}, "begins with the assistant"),
        ({"messages": [{**USER, "role": "system"}, ASSISTANT]}, "System role not supported"),
    ],
)
def test_a_conversation_that_is_not_understood_is_refused(
    columns: dict[str, Any], message: str, tiny_tokenizer: TinyTokenizer
):
    with pytest.raises(InputError, match=r"^rows.jsonl:1: ") as caught:
        item_of(tiny_tokenizer(), GEMMA, **columns)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("template", [ASKS_FOR_THOUGHTS, REMOVES_THOUGHTS])
def test_a_template_that_changes_turns_is_refused(template: str, tiny_tokenizer: TinyTokenizer):
    turns = [USER, {**ASSISTANT, "content": "<think>hm</think>The owl."}, *TURNS[2:]]
    with pytest.raises(InputError, match=r"rows.jsonl:1: the chat template changes turn 2 once"):
        item_of(tiny_tokenizer(), template, messages=turns)


def test_a_template_comes_from_the_tokenizer_or_a_file(
    tmp_path: Path, tiny_tokenizer: TinyTokenizer
):
    with pytest.raises(InputError, match="no chat template; give a file with one, data.chat_templ"):
        DomainData(tiny_tokenizer(), "chat", tmp_path)
    with pytest.raises(InputError, match="cannot read data.chat_template .*nosuch"):
        DomainData(tiny_tokenizer(), "chat", tmp_path, chat_template=tmp_path / "nosuch")
    (tmp_path / "plain.jinja").write_text(PLAIN)
    for split in ("train", "validation", "test"):
        rows = [
            {"messages": [{**USER, "content": f"{split} {i}?"}, ASSISTANT, *TURNS[2:]]}
            for i in range(12)
        ]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = DomainData(
        tiny_tokenizer(bos=False),
        "chat",
        tmp_path,
        calibration_rows=4,
        dev_rows=4,
        chat_template=tmp_path / "plain.jinja",
    )
    # the assistant's turns alone are targets, and each begins where its span does
    ids = [data.tokenizer(text)["input_ids"] for text in (" The owl.\n", "  Yes. \n")]
    for item in (*data.train_items(), *data.calibration_items()):
        assert list(item.targets) == [*ids[0], *ids[1]]


def test_a_column_beside_the_messages_is_not_taken_for_conversations(
    tmp_path: Path, tiny_tokenizer: TinyTokenizer
):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHATML
    rows = [
        {"messages": [{**USER, "content": f"{i}?"}, ASSISTANT], "conversation_id": i}
        for i in range(9)
    ]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (note,) = read_test_set(load_task("chat").with_tokenizer(tokenizer), tmp_path).notes
    assert note.startswith("column 'conversation_id' of ") and note.endswith("is not read")
