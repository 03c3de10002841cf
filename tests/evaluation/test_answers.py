"""A model's answers in the order of the items, and their scores, worked by hand."""

import itertools
import math
from typing import Any

import pytest
import torch

from trimlab.data.batching import collate
from trimlab.data.domain import DomainData
from trimlab.data.encoding import encode
from trimlab.data.items import Item
from trimlab.evaluation.answers import Answers, answer, evaluate, normalised_score
from trimlab.evaluation.generation import WrittenAnswers, greedy_answer, written_answers
from trimlab.evaluation.metrics import Estimate
from trimlab.model.sublayers import Sublayer, SublayerStack

# the longest item is neither first nor last, and the numbers of choices differ
ITEMS = [
    Item("b:", (" cat", " dog"), 1),
    Item("question: what is 2 - 1?\nanswer:", (" 1", " an owl", " the man"), 2),
    Item("the owl is in the bin, and the bin is in the bin:", (" yes", " no, never"), 0),
    Item("where?", (" on the bin", " in", " on the owl", " at"), 3),
    Item("who is it:", (" the man", " an owl in the bin"), 1),
]


@pytest.mark.parametrize("eval_tokens", [1, 64, 4096])
@pytest.mark.parametrize("full", [False, True])
def test_answers_are_in_the_order_of_the_items(
    eval_tokens: int, full: bool, tiny_model: Any, tiny_tokenizer: Any, plain_scores: Any
) -> None:
    model, tokenizer = tiny_model("llama", initializer_range=0.3), tiny_tokenizer()
    data = DomainData(tokenizer, "jsonl", eval_tokens=eval_tokens)
    answers = answer(SublayerStack(model), data.evaluation_batches(ITEMS), full=full)
    plain = [plain_scores(model, tokenizer, item) for item in ITEMS]
    wanted = [p.index(max(p)) == item.gold for p, item in zip(plain, ITEMS, strict=True)]
    assert answers.correct == "".join(str(int(right)) for right in wanted)
    assert len(set(answers.correct)) == 2  # all equal would be in any order
    assert answers.score.value == pytest.approx(100 * sum(wanted) / len(ITEMS))
    assert answers.score == evaluate(SublayerStack(model), data.evaluation_batches(ITEMS))
    assert answers.gold.tolist() == [item.gold for item in ITEMS]
    for row, tokens, scores, item in zip(
        answers.likelihoods.tolist(), answers.tokens.tolist(), plain, ITEMS, strict=True
    ):
        count = len(item.choices)
        assert row[count:] == [-math.inf] * (4 - count)
        assert tokens[count:] == [0] * (4 - count)
        context = len(tokenizer(item.context)["input_ids"])
        texts = [tokenizer(item.context + choice)["input_ids"] for choice in item.choices]
        assert tokens[:count] == [len(text) - context for text in texts]
        if full:
            assert row[:count] == pytest.approx(scores)
        else:  # upper bounds, exact for the likeliest
            assert max(row) == pytest.approx(max(scores))
            assert all(bound >= score - 1e-9 for bound, score in zip(row, scores, strict=False))


def test_accuracy_alone_costs_fewer_rows_of_the_head(tiny_model: Any, tiny_tokenizer: Any) -> None:
    """A choice whose first token is unlikely enough is not scored further."""
    items = [*ITEMS, Item("b:", (" a", " the other one is in the bin"), 0)]
    batches = DomainData(tiny_tokenizer(), "jsonl", eval_tokens=4096).evaluation_batches(items)
    rows = {False: 0, True: 0}
    for seed in range(5):
        stack = SublayerStack(tiny_model("llama", seed=seed))
        with torch.no_grad():
            stack.model.lm_head.weight.mul_(4)  # sharpens a random model's predictions
        found = {}
        for full in rows:

            def count(_module: Any, args: Any, _output: Any, full: bool = full) -> None:
                rows[full] += len(args[0])

            with stack.model.lm_head.register_forward_hook(count):
                found[full] = answer(stack, batches, full=full)
        assert found[False].correct == found[True].correct
    assert rows[False] < rows[True]


def test_normalised_accuracy_by_hand() -> None:
    # per character: -1 and -2 (right); -3 and -4 (wrong); -1.5 for two characters of three bytes
    # each and -1.2 (wrong; by bytes it would be -0.5 and right)
    items = [
        Item("a", (" abcd", " ef"), 0),
        Item("b", (" a", " bc"), 1),
        Item("c", (" 界界", " abcde"), 0),
    ]
    likelihoods = torch.tensor([[-4.0, -4.0], [-3.0, -8.0], [-3.0, -6.0]])
    gold = torch.tensor([0, 1, 0])
    right = likelihoods.argmax(-1) == gold
    answers = Answers(Estimate(0, 0, 3), right, gold, likelihoods, torch.ones(3, 2).long())
    # of three: 100 / 3; deviations 2/3, 1/3, 1/3; variance (6/9) / 2
    error = 100 * math.sqrt((6 / 9) / 2 / 3)
    assert normalised_score(answers, items) == pytest.approx((100 / 3, error, 3))


# ---- generation ----------------------------------------------------------------------------------


@torch.no_grad()
def plain_greedy(model: Any, tokenizer: Any, context: list[int], most: int) -> str:
    """Without a cache: every token from the whole text."""
    ids = list(context)
    while len(ids) < len(context) + most:
        token = int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
        if token == tokenizer.eos_token_id:
            break
        ids.append(token)
        if "\n" in tokenizer.decode(ids[len(context) :]):
            break
    text = tokenizer.decode(ids[len(context) :], skip_special_tokens=True)
    return text.split("\n")[0]


ATTENTIONS = tuple(Sublayer(block, "attention") for block in range(4))


@pytest.mark.parametrize("dropped", [(), ATTENTIONS[:1], (Sublayer(1, "mlp"),), ATTENTIONS])
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "opt"])
def test_greedy_answers_are_those_without_a_cache(
    family: str, dropped: tuple[Sublayer, ...], tiny_model: Any, tiny_tokenizer: Any
) -> None:
    tokenizer = tiny_tokenizer()
    texts = set()
    for seed in range(4):
        model = tiny_model(family, seed=seed)
        SublayerStack(model).drop(*dropped)
        for item in ITEMS:
            context = tokenizer(item.context)["input_ids"]
            text = greedy_answer(model, tokenizer, context, 12)
            assert text == plain_greedy(model, tokenizer, context, 12)
            texts.add(text)
    assert len(texts) > 3


def writer(model: Any, tokenizer: Any, texts: list[list[str]]) -> SublayerStack:
    """A model without any sublayer, whose last token alone tells the next one."""
    stack = SublayerStack(model)
    stack.drop(*stack)
    embedding, head = model.get_input_embeddings().weight, model.lm_head.weight
    with torch.no_grad():
        embedding.div_(embedding.norm(dim=-1, keepdim=True))
        model.model.norm.weight.fill_(1)
        head.zero_()
        for text in texts:
            ids = tokenizer.convert_tokens_to_ids(text)
            for now, following in itertools.pairwise(ids):
                head[following] += embedding[now]
    return stack


@pytest.mark.parametrize("end", ["</s>", "\n"])
def test_an_answer_ends_with_its_line(end: str, tiny_model: Any, tiny_tokenizer: Any) -> None:
    tokenizer = tiny_tokenizer()
    stack = writer(tiny_model("llama"), tokenizer, [["?", " ", "d", "o", "g", end, "x", "y", "z"]])
    context = tokenizer("who?")["input_ids"]
    assert greedy_answer(stack.model, tokenizer, context, 12) == " dog"
    assert greedy_answer(stack.model, tokenizer, context, 3) == " do"
    assert greedy_answer(stack.model, tokenizer, context, 0) == ""


def test_written_answers_are_compared_as_squad_does(tiny_model: Any, tiny_tokenizer: Any) -> None:
    tokenizer = tiny_tokenizer()
    stack = writer(tiny_model("llama"), tokenizer, [["?", " ", "d", "o", "g", "\n"]])

    def scores(*items: Item, **options: Any) -> WrittenAnswers:
        found = written_answers(stack, tokenizer, items, **options)
        assert found is not None
        return found

    right = Item("who?", (" x", "  DOG "), 1)
    wrong = [Item("who?", (" dog", " doge"), 1), Item("who?", (" do", " d og"), 0)]
    assert scores(right) == ((100, 0, 1), (100, 0, 1))
    assert scores(Item("who?", (" The dog.", " x"), 0)).exact_match == (100, 0, 1)
    third = (100 / 3, 100 / 3, 3)  # of 100, 0 and 0: 57.7 over the root of 3
    assert scores(right, *wrong).exact_match == pytest.approx(third)
    # one word of one, and one of three: 2 * 1 * 1/3 / (1 + 1/3) = 1/2; articles do not count
    half = scores(Item("who?", (" a big brown dog",), 0))
    assert half == ((0, 0, 1), pytest.approx((50, 0, 1)))
    both = scores(right, Item("who?", (" a big brown dog",), 0)).token_f1
    assert both == pytest.approx((75, 25, 2))
    # the oldest tokens of a long context are lost, and the answer has room
    long = Item("who? " * 99 + "who?", (" dog",), 0)
    assert scores(long, max_length=12).exact_match == (100, 0, 1)
    assert written_answers(stack, tokenizer, [Item("", ("dog",), 0)]) is None  # plain text


def test_answers_of_signs_and_articles_are_compared_to_the_letter(
    tiny_model: Any, tiny_tokenizer: Any
) -> None:
    """SQuAD leaves out both, so that an empty text would be every such answer."""
    tokenizer = tiny_tokenizer()
    stack = writer(tiny_model("llama"), tokenizer, [["?", " ", "-", "\n"]])
    for answer_text, right in ((" -", 100), (" :", 0), (" A", 0)):
        found = written_answers(stack, tokenizer, [Item("who?", (answer_text,), 0)])
        assert found == ((right, 0, 1), (right, 0, 1))


@pytest.mark.parametrize("bos", [True, False])
def test_an_answer_longer_than_what_the_model_reads_leaves_a_prompt(
    bos: bool, tiny_model: Any, tiny_tokenizer: Any
) -> None:
    tokenizer = tiny_tokenizer(bos=bos)
    stack = SublayerStack(tiny_model("opt", max_position_embeddings=32))
    item = Item("who?", (f" {'x' * 60}",), 0)
    found = written_answers(stack, tokenizer, [item], max_length=32)
    assert found is not None and found.exact_match.value == 0


def test_an_answer_of_several_lines_goes_on(tiny_model: Any, tiny_tokenizer: Any) -> None:
    tokenizer = tiny_tokenizer()
    written = ["?", " ", "d", "o", "g", "\n", "c", "x", "</s>"]
    stack = writer(tiny_model("llama"), tokenizer, [written])
    # where all right answers are of one line, the answer is the first line
    for answer_text in (" dog", " dog\ncx"):
        found = written_answers(stack, tokenizer, [Item("who?", (answer_text,), 0)])
        assert found == ((100, 0, 1), (100, 0, 1))


def test_the_answer_to_a_chat_ends_with_the_turn(tiny_model: Any, tiny_tokenizer: Any) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<unk>"], special_tokens=True)
    # a line in front of the answer belongs to the prompt, and the token behind it ends the answer
    text = ["\n", "d", "o", "g", "<unk>", "x", "y", "z"]
    stack = writer(tiny_model("llama"), tokenizer, [text])
    item = Item("who?", ("\ndog<unk>\nwho?\nx<unk>",), 0, scored=((1, 9), (15, 21)))
    found = written_answers(stack, tokenizer, [item])
    assert found == ((100, 0, 1), (100, 0, 1))


@torch.inference_mode()
def test_token_accuracy_is_the_share_of_likeliest_tokens(
    tiny_model: Any, tiny_tokenizer: Any
) -> None:
    tokenizer, model = tiny_tokenizer(), tiny_model("llama")
    items = [Item("who?", (f" {text}",), 0) for text in ("dog", "the cat", "abc abd abe")]
    # what the model writes, so that some of the tokens are hits
    for context in ("why is it", "the bee"):
        ids = tokenizer(context)["input_ids"]
        items.append(Item(context, (" " + greedy_answer(model, tokenizer, ids, 6) + "ab",), 0))
    hits = tokens = 0
    for item in items:
        start = len(tokenizer(item.context)["input_ids"])
        ids = torch.tensor(tokenizer(item.context + item.choices[0])["input_ids"])
        best = model(ids[None], use_cache=False).logits[0].argmax(-1)
        hits += int((best[start - 1 : -1] == ids[start:]).sum())
        tokens += len(ids) - start
    encoded = [encode(tokenizer, item, 256) for item in items]
    for size in (1, 3, 5):
        groups = [range(start, min(start + size, 5)) for start in range(0, 5, size)]
        batches = [collate(encoded, group) for group in groups]
        found = answer(SublayerStack(model), batches, "token_accuracy").score
        assert found.value == pytest.approx(100 * hits / tokens) and found.n == 5
    assert 0 < hits < tokens
