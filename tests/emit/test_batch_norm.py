"""Batch norms of a project that trains in several processes."""

from __future__ import annotations

from pathlib import Path

from forked import python

from latentc.emit.optimizers import training_files
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.templates import template

CODE = """
import torch
import torch.distributed as dist
from torch import nn

from batch_norm import synchronise

dist.init_process_group("gloo")
rank, rows = dist.get_rank(), 3
torch.manual_seed(0)
x, wanted = torch.randn(2, 2 * rows, 4, 2, 3).unbind()
one, ours = (nn.Sequential(nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5, momentum=0.3)) for _ in range(2))
ours.load_state_dict(one.state_dict())
synchronise(ours)


def train(model, x, wanted):
    x = x.clone().requires_grad_()
    loss = (model(x)[:, :4] - wanted).square().mean()
    (along,) = torch.autograd.grad(loss, x, create_graph=True)
    (loss + along.square().sum()).backward()
    return along.detach()


own = slice(rows * rank, rows * (rank + 1))
along, expected = train(ours, x[own], wanted[own]), train(one, x, wanted)
# The loss of two processes is the mean of theirs, and each has the gradient of the sum.
torch.testing.assert_close(along / 2, expected[own], rtol=0, atol=1e-6)
for name, value in one.state_dict().items():
    torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-5, atol=1e-6, msg=name)
assert ours[1].running_mean.abs().max() > 0.01
torch.testing.assert_close(ours.eval()(x), one.eval()(x))
for model in (ours, one):
    model.train().zero_grad()
for model, part in ((ours, own), (one, slice(None))):
    (model(x[part])[:, :4] - wanted[part]).square().mean().backward()
for (name, mine), whole in zip(ours.named_parameters(), one.parameters(), strict=True):
    dist.all_reduce(mine.grad)
    torch.testing.assert_close(mine.grad / 2, whole.grad, rtol=1e-4, atol=1e-6, msg=name)
print("as one")
"""


def test_statistics_are_those_of_all_processes(tmp_path: Path) -> None:
    """Outputs, first and second derivatives and running statistics are those of one process with the whole batch."""
    (tmp_path / "batch_norm.py").write_text(template("project/batch_norm.py"))
    done = python(tmp_path, "-c", CODE, ranks=2)
    assert done.stdout.count("as one") == 2, done.stdout + done.stderr


def test_projects_without_batch_norms_have_no_such_file() -> None:
    for system, has in (("digits_biggan", True), ("digits_dit", False)):
        spec = load_spec(system)
        files = training_files(spec.train, lower(spec).module)
        assert ("batch_norm.py" in files) == has == ("from batch_norm import" in files["train.py"])
