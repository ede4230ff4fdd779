"""Queries that are padding change nothing, whatever rows they repeat."""

from dataclasses import replace

import torch
from synthetic import departed_learner, draw


def test_padded_queries_change_neither_answers_nor_loss(kind, toys):
    learner, batch = departed_learner(kind), draw(toys)
    padded = replace(
        batch,
        query=torch.cat([batch.query, batch.support, batch.query[:, :3]], dim=1),
        query_labels=torch.cat([batch.query_labels, torch.full((6, 11), -1)], dim=1),
    )
    with torch.no_grad():
        expected, found = (learner.log_probabilities(episodes).exp() for episodes in (batch, padded))
        loss, of_padded = learner.meta_loss(batch), learner.meta_loss(padded)
    torch.testing.assert_close(found[:, :20], expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(of_padded, loss, atol=1e-5, rtol=0)
