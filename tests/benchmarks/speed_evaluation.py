"""Answering episodes of stored embeddings, against easyfsl's methods, which take one at a time.

Items are gathered beforehand for both sides, and before anything is timed the answers are compared.

- Prototypes: the same method; all answers must be the same.
- Fine-tuning: 200 gradient steps on the support's cross-entropy, starting at the prototypes, cosines as logits at the
  start. easyfsl moves the prototypes with Adam at 1e-4 and compares by cosine throughout; we move a linear head from
  there by plain gradient descent, in dual form. At least 97 % of the answers must be the same, which those of the
  start nearly are; so our descent must also lower the support's cross-entropy as far as theirs.
- PT-MAP: the same method on the same transformed features, with easyfsl's settings; ours works on Gram matrices. At
  least 99 % of the answers must be the same: iterations that stop at a tolerance leave some close calls.

None of ours may be right less often than easyfsl's by more than a point.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import Any

import torch
from jaxtyping import Float, Int
from peers import Peers, optional
from stored_pool import DIM, WAY, Episodes
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from turns import Contender, Pace, how_many_times_faster, take_turns

from models.episodes import one_hot
from models.features import DomainData
from models.metric.prototypical_episodes import class_means, prototype_logits
from models.metric.transductive import assign, refine, start
from models.optimisation.inner_loop import Goal, Layer, adapt_and_score

TASKS, COMPARED = 250, 100
"""How many we answer at once, and of how many the answers are compared."""

LARGEST_LOSS = 0.01
FINE_TUNING_STEPS, FINE_TUNING_RATE = 200, 0.05

Support = Float[Tensor, "batch support dim"]
Query = Float[Tensor, "batch query dim"]
Labels = Int[Tensor, "batch support"]
Logits = Float[Tensor, "batch query way"]


@dataclass(frozen=True)
class Method:
    """Our batched function, the name of easyfsl's class, and the share of answers that must be the same."""

    ours: Callable[[Support, Query, Labels], Logits]
    theirs: str
    agreement: float


def fine_tune(support: Support, query: Query, labels: Labels) -> Logits:
    """Return the logits of a linear head that starts as cosines with the prototypes and descends on the support."""
    prototypes = normalize(class_means(support, labels, WAY), dim=-1)
    support, query = normalize(support, dim=-1), normalize(query, dim=-1)
    nothing = Layer(torch.zeros(WAY, DIM), torch.zeros(WAY))
    rates = [torch.full((1, FINE_TUNING_STEPS, 1), FINE_TUNING_RATE)]
    goal = Goal(one_hot(labels, WAY), offset=support @ prototypes.mT)
    moved = adapt_and_score([nothing], support, query, goal, rates)
    return query @ prototypes.mT + moved


def pt_map(support: Support, query: Query, labels: Labels) -> Logits:
    """Return the shares of the queries in a balanced plan, after refining prototypes on power-transformed items."""
    items = torch.cat([support, query], dim=1).relu_().add_(1e-6).sqrt_()
    gram, is_seen = items @ items.mT, torch.ones(query.shape[:2], dtype=torch.bool)
    mixtures = refine(gram, start(one_hot(labels, WAY), query.shape[1]), is_seen, is_balanced=True)
    return assign(gram, mixtures, is_seen, is_balanced=True)


METHODS = {
    "proto": Method(partial(prototype_logits, n_way=WAY), "PrototypicalNetworks", 1.0),
    "finetune": Method(fine_tune, "Finetune", 0.97),
    "ptmap": Method(pt_map, "PTMAP", 0.99),
}


@torch.no_grad()
def measure_evaluation(method: str, domain: DomainData, peers: Peers, pace: Pace) -> dict[str, float | None]:
    """Return how many times faster a method answers an episode."""
    key = f"{method}_eval_vs_easyfsl"
    if (easyfsl := optional(peers.easyfsl)) is None:
        return {key: None}
    ours, theirs = METHODS[method].ours, getattr(easyfsl, METHODS[method].theirs)(nn.Identity())
    episodes = Episodes(domain).draw(TASKS)
    support, query = episodes.take(episodes.support), episodes.take(episodes.query)
    tasks = cycle(zip(support, episodes.support_labels, query, strict=True))

    def next_of_theirs() -> Tensor:
        items, labels, asked = next(tasks)
        theirs.process_support_set(items, labels)
        answers: Tensor = theirs(asked)
        return answers

    check_answers(
        method,
        ours(support, query, episodes.support_labels).argmax(-1)[:COMPARED],
        torch.stack([next_of_theirs() for _ in range(COMPARED)]).argmax(-1),
        episodes.query_labels[:COMPARED],
    )
    if method == "finetune":
        check_descent(theirs, support[:COMPARED], episodes.support_labels[:COMPARED], query[:COMPARED])
    contenders = {
        "ours": Contender(lambda: ours(support, query, episodes.support_labels), TASKS),
        "easyfsl": Contender(next_of_theirs, 1),
    }
    return {key: how_many_times_faster(take_turns(contenders, pace), "ours", "easyfsl")}


def check_answers(
    method: str,
    ours: Int[Tensor, "batch query"],
    theirs: Int[Tensor, "batch query"],
    labels: Int[Tensor, "batch query"],
) -> None:
    """Raise if too few answers are the same, or ours are right less often."""
    same = float((ours == theirs).float().mean())
    gain = float((ours == labels).float().mean() - (theirs == labels).float().mean())
    print(f"{method}: {same:.2%} of the answers are easyfsl's, accuracy {gain:+.2%}", file=sys.stderr)
    if same < METHODS[method].agreement or gain < -LARGEST_LOSS:
        raise AssertionError(f"{method}: {same:.2%} of the answers are easyfsl's, and accuracy differs by {gain:.2%}")


def check_descent(theirs: Any, support: Support, labels: Int[Tensor, "batch support"], query: Query) -> None:
    """Raise unless our fine-tuning lowers the loss of the support, which both descend, as far as easyfsl's."""
    ours = cross_entropy(fine_tune(support, support, labels).flatten(0, 1), labels.flatten())
    lowered = []
    for items, own, asked in zip(support, labels, query, strict=True):
        theirs.process_support_set(items, own)
        theirs(asked)
        lowered.append(cross_entropy(theirs.cosine_distance_to_prototypes(items), own))
    reached = torch.stack(lowered).mean()
    print(f"finetune: the support's loss is {float(ours):.3f}, easyfsl's {float(reached):.3f}", file=sys.stderr)
    if ours > reached:
        raise AssertionError(f"finetune: {float(ours):.3f} is more than {float(reached):.3f}, which easyfsl reaches")
