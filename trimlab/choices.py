"""Multiple-choice scoring: the log-likelihood of every choice, the context computed once.

The choices of an item are branches of a tree whose trunk is the context they share. One
sequence holds the trunk and then every branch; an attention mask keeps the branches apart and
position ids put each branch right behind the trunk, so a single pass over the item gives what
one pass per choice gives. The LM head runs only where a choice token is predicted.

Tokenisation and metric follow lm-evaluation-harness (`TemplateLM._encode_pair`,
`ConfigurableTask.process_results`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from trimlab.errors import InputError
from trimlab.sublayers import SublayerStack
from trimlab.tasks import Item

PASS_TOKENS = 32  # what a pass costs apart from its tokens, as so many of them
CACHED_ROWS = 8  # rows of 262,144 logits that fit into a cache of 8 MB
HEAD_ROWS = 256  # positions per call of the LM head: 256 rows of 262,144 logits are 268 MB


@dataclass(frozen=True, slots=True)
class EncodedItem:
    """A tokenised item as a tree.

    Attributes:
        tokens: The trunk, then the branches one after another.  # (T,)
        positions: Distance of each token from the start of its own text.  # (T,)
        branches: 0 in the trunk, 1 + k in the branch of choice k.  # (T,)
        sources: Index in `tokens` of the token that predicts a scored token.  # (P,)
        targets: Id of each scored token.  # (P,)
        owners: The choice that each scored token belongs to.  # (P,)
        gold: Index of the right choice.
    """

    tokens: tuple[int, ...]
    positions: tuple[int, ...]
    branches: tuple[int, ...]
    sources: tuple[int, ...]
    targets: tuple[int, ...]
    owners: tuple[int, ...]
    gold: int


def encode(
    tokenizer: PreTrainedTokenizerBase, item: Item, max_length: int, only_gold: bool = False
) -> EncodedItem:
    """Tokenises an item.

    As in the harness, a choice's tokens are those of `context + choice` behind as many tokens
    as the context alone has. (Where a token spans the two, which a space between them prevents,
    the harness runs the tokens of the context alone, and with them a text that nobody wrote;
    here it is the text itself.) A context too long for the model loses its oldest tokens.

    Args:
        tokenizer: The model's tokenizer; its special tokens (BOS) are added.
        item: Context and choices. Without a context (plain text) every token is scored.
        max_length: Longest text, in tokens.
        only_gold: Encode the right choice alone, as training needs it.

    Raises:
        InputError: A choice has no tokens, or is longer than `max_length`.
    """
    choices = (item.choices[item.gold],) if only_gold else item.choices
    start = len(_ids(tokenizer, item.context))
    texts = [_ids(tokenizer, item.context + choice) for choice in choices]
    if start == 0:  # no context and no BOS: the first token has nothing to be predicted from
        start = 1
    context = f"...{item.context[-40:]!r}"  # an item does not know its line
    for choice, text in zip(choices, texts, strict=True):
        if len(text) <= start:
            raise InputError(f"choice {choice!r} adds no token to its context {context}; reword it")
        if len(text) - start + 1 > max_length:
            raise InputError(
                f"choice {choice[:40]!r}... behind {context} has {len(text) - start} tokens, and "
                f"max_length is {max_length}; shorten the choice or, if the model reads more, "
                "raise data.max_length"
            )
    excess = max(0, max(map(len, texts)) - max_length)
    texts, start = [text[excess:] for text in texts], start - excess

    # the trunk ends before the first token on which two choices differ, and before the last
    # token of the context, from which every choice's first token is predicted, at the latest
    trunk = start
    while any(text[:trunk] != texts[0][:trunk] for text in texts):
        trunk -= 1
    tokens, positions = list(texts[0][:trunk]), list(range(trunk))
    branches, sources, targets, owners = [0] * trunk, [], [], []
    for k, text in enumerate(texts):
        offset = len(tokens) - trunk  # where this branch's positions begin in `tokens`
        for position in range(start, len(text)):
            source = position - 1
            sources.append(source if source < trunk else source + offset)
            targets.append(text[position])
            owners.append(k)
        # the last token predicts nothing, so it is not computed
        tokens += text[trunk:-1]
        positions += range(trunk, len(text) - 1)
        branches += [k + 1] * (len(text) - 1 - trunk)
    if len(texts) == 1:
        branches = [0] * len(tokens)  # one branch is no tree: the plain causal mask serves
    return EncodedItem(
        *map(tuple, (tokens, positions, branches, sources, targets, owners)),
        gold=0 if only_gold else item.gold,
    )


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    # quiet: a text longer than the model reads is cut afterwards
    return tokenizer(text, verbose=False)["input_ids"]  # type: ignore[return-value]


@dataclass  # not frozen: Lightning's half precisions assign a batch's fields, to its like
class Batch:
    """Encoded items, padded on the right to the longest of them.

    Attributes:
        input_ids: Token ids.  # (B, T)
        positions: Position ids.  # (B, T)
        branches: Branch of each token, -1 where there is none.  # (B, T)
        rows: Item of each scored token.  # (P,)
        sources: Position in its row that predicts it.  # (P,)
        targets: Its id.  # (P,)
        owners: Its choice.  # (P,)
        gold: Right choice of each item.  # (B,)
        order: Place of each item in the set that the batch was taken from.  # (B,)
    """

    input_ids: Tensor
    positions: Tensor
    branches: Tensor
    rows: Tensor
    sources: Tensor
    targets: Tensor
    owners: Tensor
    gold: Tensor
    order: Tensor

    def __len__(self) -> int:
        return self.gold.shape[0]

    @property
    def n_choices(self) -> int:
        """The largest number of choices of an item."""
        return int(self.owners.max()) + 1

    @property
    def places(self) -> Tensor:
        """Where a scored token is predicted: indices into batch and time, flattened.  # (U,)"""
        return (self.rows * self.input_ids.shape[1] + self.sources).unique()

    @property
    def choice_tokens(self) -> Tensor:
        """Scored tokens of every choice, 0 where an item has fewer choices.  # (B, K)"""
        shape = len(self), self.n_choices
        owner = self.rows * shape[1] + self.owners
        return torch.bincount(owner, minlength=shape[0] * shape[1]).view(shape)

    @property
    def real(self) -> Tensor:
        """True for tokens, False for padding.  # (B, T)"""
        return self.branches >= 0

    def to(self, device: torch.device | str) -> "Batch":
        """A copy on another device."""
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def scoring(self, chosen: Tensor) -> "Batch":
        """The same items with only some of the scored tokens.

        Args:
            chosen: True for the scored tokens that stay, or their indices.  # (P,)
        """
        names = ("rows", "sources", "targets", "owners")
        return replace(self, **{name: getattr(self, name)[chosen] for name in names})

    def repeated(self, times: int) -> "Batch":
        """The same items several times over, one copy after another."""
        copies = {
            f.name: torch.cat([getattr(self, f.name)] * times)
            for f in fields(self)
            if f.name != "rows"
        }
        rows = torch.cat([self.rows + copy * len(self) for copy in range(times)])
        return replace(self, rows=rows, **copies)

    def parts(self, max_tokens: int) -> list["Batch"]:
        """The same items in batches of similar length, see `length_groups`.

        Args:
            max_tokens: Most tokens of a part, padding included.
        """
        lengths = self.real.sum(1).tolist()
        groups = length_groups(lengths, max_tokens)
        return [self._items(torch.tensor(g, device=self.gold.device)) for g in groups]

    def _items(self, chosen: Tensor) -> "Batch":
        place = torch.full_like(self.gold, -1)
        place[chosen] = torch.arange(len(chosen), device=place.device)
        rows = place[self.rows]
        order = rows.argsort(stable=True)  # the scored tokens of one item after another
        part = self.scoring(order[(rows < 0).sum() :])
        longest = int(self.real[chosen].sum(1).max())
        tokens = ("input_ids", "positions", "branches")
        return replace(
            part,
            rows=place[part.rows],
            gold=self.gold[chosen],
            order=self.order[chosen],
            **{name: getattr(self, name)[chosen, :longest] for name in tokens},
        )


def collate(items: Sequence[EncodedItem], indices: Sequence[int] | None = None) -> Batch:
    """Pads encoded items into a batch.

    Args:
        items: Encoded items.
        indices: Which of them, in this order; all of them if not given.
    """
    indices = range(len(items)) if indices is None else indices
    items = [items[i] for i in indices]
    longest = max(len(item.tokens) for item in items)

    def padded(values: Sequence[tuple[int, ...]], filler: int) -> Tensor:
        return torch.tensor([[*v, *[filler] * (longest - len(v))] for v in values])

    def flat(values: Sequence[tuple[int, ...]]) -> Tensor:
        return torch.tensor([x for v in values for x in v])

    return Batch(
        input_ids=padded([item.tokens for item in items], 0),
        positions=padded([item.positions for item in items], 0),
        branches=padded([item.branches for item in items], -1),
        rows=flat([(row,) * len(item.targets) for row, item in enumerate(items)]),
        sources=flat([item.sources for item in items]),
        targets=flat([item.targets for item in items]),
        owners=flat([item.owners for item in items]),
        gold=torch.tensor([item.gold for item in items]),
        order=torch.tensor(indices),
    )


def length_groups(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Groups texts of similar length so that the least is computed, padding included.

    Args:
        lengths: Length of every text, in tokens.
        max_tokens: Most tokens (padding included) of a group; a longer text is a group alone.

    Returns:
        Indices into `lengths`, longest texts first, so that memory peaks at once and not late.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    # the least cost of grouping the first texts of the order, and where its last group starts
    cheapest, starts = [0], [0]
    for stop in range(1, len(order) + 1):
        options = []
        for start in range(stop - 1, -1, -1):
            tokens = lengths[order[start]] * (stop - start)
            if tokens > max_tokens and stop - start > 1:
                break
            options.append((cheapest[start] + tokens + PASS_TOKENS, start))
        cost, start = min(options)
        cheapest.append(cost)
        starts.append(start)
    groups, stop = [], len(order)
    while stop:
        groups.append(order[starts[stop] : stop])
        stop = starts[stop]
    return groups[::-1]


def batches(items: Sequence[EncodedItem], max_tokens: int) -> list[list[int]]:
    """Groups items of similar length: indices into `items`, see `length_groups`."""
    return length_groups([len(item.tokens) for item in items], max_tokens)


def tree_mask(branches: Tensor, positions: Tensor, window: int | None = None) -> Tensor:
    """Which key each query may attend to.

    A token sees itself, the trunk, and the earlier tokens of its own branch.

    Args:
        branches: 0 in the trunk, 1 + k in branch k, -1 in the padding.  # (B, T)
        positions: Position ids.  # (B, T)
        window: Size of the sliding window in positions, or None.

    Returns:
        True where attention is allowed.  # (B, 1, T, T)
    """
    query, key = branches[:, :, None], branches[:, None, :]
    distance = positions[:, :, None] - positions[:, None, :]
    allowed = ((key == 0) | (key == query)) & (distance >= 0)
    if window is not None:
        allowed &= distance < window
    # padding attends to itself alone: a row with no key at all would be NaN
    real = key >= 0
    itself = torch.eye(branches.shape[1], dtype=torch.bool, device=branches.device)
    return torch.where(real, allowed, itself)[:, None]  # (B, 1, T, T)


def model_inputs(batch: Batch, config: PretrainedConfig, dtype: torch.dtype) -> dict[str, object]:
    """Arguments for the decoder: token ids, position ids and, for a tree, its masks."""
    inputs: dict[str, object] = {"input_ids": batch.input_ids}
    if not bool((batch.branches > 0).any()):
        return inputs  # right padding behind a causal mask changes no real token

    def additive(window: int | None) -> Tensor:
        allowed = tree_mask(batch.branches, batch.positions, window)
        blocked = torch.finfo(dtype).min
        return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(
            ~allowed, blocked
        )

    window = getattr(config, "sliding_window", None)
    layer_types = set(getattr(config, "layer_types", None) or [])
    if layer_types:  # the model picks its mask by the type of the block
        mask: object = {"full_attention": additive(None)}
        if "sliding_attention" in layer_types:
            mask["sliding_attention"] = additive(window)  # type: ignore[index]
    else:
        mask = additive(window)
    return inputs | {"position_ids": batch.positions, "attention_mask": mask}


def token_log_probs(stack: SublayerStack, hidden: Tensor, batch: Batch) -> Tensor:
    """Log-probability of every scored token.

    Positions that predict several tokens (the end of the trunk predicts the first token of
    each choice) go through the LM head once, and the head runs on `HEAD_ROWS` rows at a time.

    Args:
        stack: The model.
        hidden: Last hidden states, after the final norm.  # (B, T, D)
        batch: The batch they belong to.

    Returns:
        Natural logarithms, at least in float32.  # (P,)
    """
    flat = batch.rows * hidden.shape[1] + batch.sources  # (P,)
    unique, which = flat.unique(return_inverse=True)  # (U,), (P,)
    rows = hidden.flatten(0, 1)[unique]  # (U, D)
    result = hidden.new_empty(
        len(flat), dtype=torch.promote_types(hidden.dtype, torch.float32)
    )  # (P,)
    for start in range(0, len(unique), HEAD_ROWS):
        logits = stack.head(rows[start : start + HEAD_ROWS]).to(result.dtype)  # (U', V)
        here = ((which >= start) & (which < start + HEAD_ROWS)).nonzero().squeeze(1)
        local = which[here] - start
        # a few rows at a time stay in the cache: half of the time of all at once
        normalisers = torch.cat([few.logsumexp(-1) for few in logits.split(CACHED_ROWS)])  # (U',)
        result[here] = logits[local, batch.targets[here]] - normalisers[local]
    return result


def head_positions(batch: Batch) -> tuple[Tensor, Batch]:
    """The positions that the LM head has to see: they predict a scored token.

    Args:
        batch: The items.

    Returns:
        The positions of each item, filled up with 0 (B, S), and the batch for hidden states of
        these alone (B, S, D): its sources are places in the first.
    """
    length = batch.input_ids.shape[1]
    unique, which = (batch.rows * length + batch.sources).unique(return_inverse=True)  # (U,), (P,)
    items = unique // length  # (U,)
    counts = torch.bincount(items, minlength=len(batch))  # (B,)
    places = torch.arange(len(unique), device=unique.device) - (counts.cumsum(0) - counts)[items]
    positions = unique.new_zeros(len(batch), int(counts.max()))  # (B, S)
    positions[items, places] = unique % length
    return positions, replace(batch, sources=places[which])


def sum_by_choice(log_probs: Tensor, batch: Batch) -> Tensor:
    """Log-likelihood of every choice, -inf where an item has fewer.  # (P,) -> (B, K)"""
    shape = len(batch), batch.n_choices
    index = batch.rows * shape[1] + batch.owners
    sums = log_probs.new_zeros(shape).flatten().index_add_(0, index, log_probs)
    missing = torch.ones_like(sums, dtype=torch.bool).index_fill_(0, index, False)
    return sums.masked_fill_(missing, -torch.inf).view(shape)


def choice_likelihoods(stack: SublayerStack, hidden: Tensor, batch: Batch) -> Tensor:
    """Log-likelihood of every choice, from hidden states.  # (B, T, D) -> (B, K)"""
    return sum_by_choice(token_log_probs(stack, hidden, batch), batch)


def winning_likelihoods(stack: SublayerStack, hidden: Tensor, batch: Batch) -> Tensor:
    """Log-likelihood of every choice that may be the likeliest, an upper bound of the others'.

    No token's log-probability is positive, so those of a choice's first tokens bound the whole
    from above. A choice bounded below another's full log-likelihood cannot win, and its other
    tokens never go through the LM head. The argmax is that of the full log-likelihoods.

    Args:
        stack: The model.
        hidden: Last hidden states, after the final norm.  # (B, T, D)
        batch: The batch they belong to.

    Returns:
        Log-likelihoods or upper bounds, -inf where an item has fewer choices.  # (B, K)
    """
    # scored tokens stand in order, so a choice's first one is where item or choice changes
    owner = batch.rows * batch.n_choices + batch.owners  # (P,)
    first = torch.ones_like(owner, dtype=torch.bool)
    first[1:] = owner[1:] != owner[:-1]
    shape = len(batch), batch.n_choices
    bounds = hidden.new_full(
        shape, -torch.inf, dtype=torch.promote_types(hidden.dtype, torch.float32)
    )
    bounds = bounds.flatten()  # (B * K,)
    bounds[owner[first]] = token_log_probs(stack, hidden, batch.scoring(first))
    unfinished = torch.zeros_like(bounds, dtype=torch.bool).index_fill_(0, owner[~first], True)
    while True:
        best = bounds.masked_fill(unfinished, -torch.inf).view(shape).amax(-1)  # (B,)
        bound, choice = bounds.masked_fill(~unfinished, -torch.inf).view(shape).max(-1)  # (B,)
        # the likeliest unfinished choice of every item in which it may still win or tie
        contends = (bound >= best) & (bound > -torch.inf)
        if not bool(contends.any()):
            return bounds.view(shape)
        chosen = ~first & contends[batch.rows] & (choice[batch.rows] == batch.owners)
        log_probs = token_log_probs(stack, hidden, batch.scoring(chosen))
        bounds.index_add_(0, owner[chosen], log_probs)
        unfinished[owner[chosen]] = False


@torch.inference_mode()
def log_likelihoods(stack: SublayerStack, batch: Batch, winner_only: bool = False) -> Tensor:
    """Log-likelihood of every choice of a batch, in one pass.

    Args:
        stack: The model.
        batch: The items.
        winner_only: Only the likeliest choice matters, see `winning_likelihoods`.

    Returns:
        Natural logarithms, -inf where an item has fewer choices.  # (B, K)
    """
    with stack.read_at(batch.places):
        hidden = stack.hidden(**model_inputs(batch, stack.model.config, stack.model.dtype))
    return (winning_likelihoods if winner_only else choice_likelihoods)(stack, hidden, batch)
