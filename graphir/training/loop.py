"""The training loop: (parameters, state, step) in, the next out, until all steps are done or a signal comes.

Everything that a step computes follows from the configuration, the text and the step's number: batches and dropout
are keyed by (seed, step), and the learning rate is a node of the graph. So a checkpoint needs parameters, optimizer
state and the step, nothing else, to go on bit for bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from graphir.backends import Executable
from graphir.backends.arrays import to_numpy
from graphir.backends.communicator import Communicator, communicator_for, require_agreement
from graphir.backends.registry import find_backend
from graphir.backends.replicas import Replicas
from graphir.errors import ConfigError, NonFiniteError
from graphir.launch import processes_here
from graphir.memory import free_memory
from graphir.passes.autodiff import SCALE
from graphir.training.budget import Budget
from graphir.training.checkpoint import (
    Arrays,
    Checkpoint,
    find_checkpoint,
    list_checkpoints,
    load_checkpoint,
    select_arrays,
)
from graphir.training.config import TRAINED, TrainConfig
from graphir.training.data import Corpus, Ids, draw_batch, load_corpus, validation_batches
from graphir.training.folder import RunFolder
from graphir.training.parallel import Parallel
from graphir.training.programs import Needs, Programs
from graphir.training.resuming import (
    require_one_meaning,
    require_same_base,
    require_same_data,
    require_same_options,
)
from graphir.training.schema import Record
from graphir.training.signals import noting_signals
from graphir.training.subject import subject_of
from graphir.training.terms import terms_of
from graphir.training.tokens import tokenizer_file, tokenizer_fingerprint, tokenizer_of

#: Gradients that overflow float16 even at this loss scale are none.
_LEAST_SCALE = 2.0**-14
#: Seconds that a rank which was told to end waits for the others at least: see `training.signals`.
_HURRY = 5.0
#: Steps between two comparisons of replicas, unless told otherwise.
VERIFY_REPLICAS = 100


class Report:
    """What a run tells while it goes on. Nothing is shown here; whoever wants to see overrides."""

    def begin(self, config: TrainConfig, corpus: Corpus, sizes: Mapping[str, int], parameters: int, step: int) -> None:
        """Before the first step: the dims in numbers; `parameters` are trained, `step` steps are done already."""

    def stepped(self, record: Record) -> None:
        """After each step, with its line of the metrics."""

    def saved(self, path: Path) -> None:
        """After each checkpoint."""

    def note(self, text: str) -> None:
        """Something went otherwise than asked, but well."""

    def end(self) -> None:
        """After the last step, or an error."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended: steps done, the last losses (nats a token), its last checkpoint, the signal that ended it.

    The loss is NaN of a run that had nothing left to do and has lost its metrics.
    """

    step: int
    loss: float
    val_loss: float | None
    checkpoint: Path
    signal: int | None = None


def train(
    config: TrainConfig,
    out: str | Path,
    *,
    resume: bool = False,
    report: Report | None = None,
    ranks: str = "simulated",
    backend: str = "numpy",
    recompute: str | None = None,
    ignore_memory: bool = False,
    verify_replicas: int = VERIFY_REPLICAS,
) -> Outcome:
    """Trains a Transformer as `config` says, the documents' or one of others, into the folder `out`.

    `resume` goes on with what lies there. A model by name, or of others, is written to its folder `model` at the end.

    The ranks of a mesh are all simulated in this process, or, with `ranks` "mpi", this process is one of them: each
    keeps its own blocks of parameters and state, and rank 0 alone writes, and reports.

    `backend` is that of `gi.compile`: on a GPU, parameters and state stay there from step to step, and come home for
    checkpoints alone, which any backend goes on from. `recompute`, too, is that of `gi.compile`.

    What does not fit into the memory that is free is refused before anything is allocated, unless `ignore_memory`.

    Where ranks are processes they compare, before the first step, what they were started with. Every `verify_replicas`
    steps, and before each checkpoint, they compare what several of them hold alike of parameters and state; never if
    that is 0.

    Writes checkpoints `step-….safetensors`, `metrics.jsonl` and `loss.png`, or, where a run fails before its first
    checkpoint, nothing. SIGINT and SIGTERM end the run after the step at hand, with a checkpoint; a second one ends it
    at once. Of several processes it is enough that one gets it; where others do not take part in the step any more, it
    ends without a checkpoint, some seconds later. The folder is locked meanwhile: a second run into it is refused. A
    run that was killed after its last step is finished by `resume`: what is missing is drawn.
    Errors: ConfigError for options or sizes that cannot be, for memory that does not suffice, with what would fit, or
    for a folder that holds a run, is trained into or cannot be written; DataError for the text; CheckpointError for a
    checkpoint that is corrupt or of another configuration; NonFiniteError, with the first node at fault, for a loss
    that is NaN or infinite; AgreementError, with who differs in what, if ranks were not started alike;
    CommunicationError if one does not come; ReplicaError, with tensor and rank, for a replica that has gone astray;
    StoppedError if a signal ended the run, and its last step was lost.
    """
    # Who says which ranks run here. One process speaks and writes for all.
    config = config.check()
    if not resume:
        require_one_meaning(config)
    communicator = communicator_for(config.mesh(), ranks, backend=backend)
    if resume:
        find_checkpoint(Path(out))  # where there is none, no folder is made
    with RunFolder(Path(out), communicator.leads) as folder:
        run = _Training(config, folder, resume, communicator, ranks, backend, recompute, ignore_memory, verify_replicas)
        report = (report if communicator.leads else None) or Report()
        try:
            report.begin(run.config, run.corpus, run.sizes, run.parameter_count, run.step)
            for each in run.executable.communicator.differences:
                report.note(f"{each}: ranks may differ in their last bits, and replicas are compared by their norms")
            return run.go(report)
        finally:
            report.end()


class _Training:
    """A run that is ready to go: everything that can be wrong with it has been found before anything is written."""

    def __init__(
        self,
        config: TrainConfig,
        folder: RunFolder,
        resume: bool,
        communicator: Communicator,
        ranks: str,
        backend: str = "numpy",
        recompute: str | None = None,
        ignore_memory: bool = False,
        verify_replicas: int = VERIFY_REPLICAS,
    ) -> None:
        self.config, self.folder, self.step = config.resolved(), folder, 0
        self.communicator = communicator
        self.ranks, self.backend = ranks, backend
        if not resume and list_checkpoints(folder.path):
            raise ConfigError(f"{folder.path} holds a run already; go on with it by --resume, or choose another --out")
        saved = load_checkpoint(find_checkpoint(folder.path)) if resume else None
        if saved is not None:
            require_same_options(saved, config)
        self.subject, self.corpus = subject_of(config), load_corpus(config)
        tokens = self.subject.tokens(self.corpus.vocabulary)
        self.tokenizer, self.base = tokenizer_fingerprint(config.tokenizer), self.subject.base
        if saved is not None and saved.base is not None:
            require_same_base(saved, self.base)
        if not self.communicator.is_alone:
            more = {"backend": backend, "recompute": recompute, "verify_replicas": verify_replicas}
            require_agreement(self.communicator, terms_of(config, more, self.corpus, self.tokenizer, self.base, saved))
        self.parallel = Parallel.of(config, tokens, backend)
        self.vocabulary = self.parallel.vocabulary
        free = None if ignore_memory or find_backend(backend).on_device else free_memory()
        if free is not None and saved is not None:  # what is there already will not be needed again
            free += sum(array.nbytes for array in saved.arrays.values())
        budget = Budget(config, recompute, Needs(tokens), free and free // processes_here())
        # What cannot be, whatever the plan, is told before minutes of planning.
        self._require(budget.refuse_tensors())
        programs = Programs.of(config, self.parallel, ranks, backend, recompute)
        self._require(budget.refuse(programs.need()))
        self.sizes, self.loss, graph = programs.sizes, programs.loss, programs.graph
        self.executable, self.forward, self.graph = programs.step, programs.validation, graph
        #: The loss scale of this step, where there is one that follows the gradients.
        self.scale = SCALE if any(value.name == SCALE for value in graph.state) else None
        if saved is None:
            known = self.subject.weights()
            self.arrays: Arrays = self.vocabulary.initialize(graph, self.sizes, config.seed, known)
        else:
            require_same_data(saved, self.corpus, self.tokenizer)
            beside = self.subject.weights() if saved.base is not None else {}
            saved = replace(saved, arrays=self.vocabulary.pad(graph, {**beside, **saved.arrays}))
            self.arrays = select_arrays(saved, self.executable.plan)
            self.step = saved.step
        if self.step > config.steps:
            raise ConfigError(f"{folder.path} is at step {self.step} already; ask for more --steps than {config.steps}")
        self.verify_every, self.replicas = verify_replicas, Replicas(self.executable)
        #: Seconds that the longest step has taken.
        self.longest = 0.0
        trained = self.subject.trained(graph) or [value.name for value in graph.parameters]
        #: What checkpoints leave out: weights that are only read, and lie in files of their own.
        self.beside = {value.name for value in graph.parameters} - {*trained}
        parameters = {name: self.arrays[name] for name in trained}
        self.parameter_count = sum(array.size for array in self.vocabulary.strip(graph, parameters).values())

    def _require(self, error: ConfigError | None) -> None:
        """Raises the error, in all processes if one of them has one: memory is each machine's own."""
        if self.communicator.agree(int(error is not None)):
            raise error or ConfigError("on another rank's machine, memory does not suffice for this training")

    # -- the loop -------------------------------------------------------------------------------------

    def go(self, report: Report) -> Outcome:
        self.folder.keep_tokenizer(tokenizer_file(self.config.tokenizer))
        metrics = self.folder.open_metrics(self.step, report.note)
        record: Record = metrics.last if metrics is not None else {}
        path = self.folder.checkpoint(self.step)
        if self.step == self.config.steps:
            report.note(
                f"{self.folder.path} is at step {self.step} of {self.config.steps} already; ask for more --steps"
            )
        stop = 0
        try:
            with noting_signals(self._hurry) as received:
                self._verify_replicas(at_once=True)
                # At least one step, however soon the signal comes: a run always has something to show.
                while self.step < self.config.steps and not stop:
                    record = self._advance()
                    # A signal may reach one process a step before another; all end after the same one.
                    stop = self.communicator.agree(received[0] if received else 0)
                    last = self.step == self.config.steps
                    saving = last or stop or _due(self.step, self.config.checkpoint_every)
                    self._verify_replicas(at_once=bool(saving))
                    if last or _due(self.step, self.config.validate_every):
                        record["val_loss"] = self._validate()
                    if metrics is not None:
                        metrics.append(record)
                    report.stepped(record)
                    if saving:
                        if metrics is not None:
                            metrics.sync()
                        path = self._save(last=bool(last or stop))
                        report.saved(path)
        finally:
            if metrics is not None:
                metrics.close()
        title = f"{self.corpus.source}: {self.parameter_count:,} parameters"
        self.folder.draw(title, self.config.batch * self.config.sequence, report.note)
        return Outcome(self.step, record.get("loss", math.nan), record.get("val_loss"), path, stop or None)

    def _hurry(self) -> None:
        self.communicator.hurry(max(_HURRY, 2 * self.longest))

    def _verify_replicas(self, at_once: bool) -> None:
        """Compares replicas if that is due: while the next step goes on, or, before they are saved, at once."""
        self.replicas.settle()
        if self.verify_every and (at_once or _due(self.step, self.verify_every)):
            self.replicas.begin(self.arrays, self.step)
        if at_once:
            self.replicas.settle()

    def _advance(self) -> Record:
        """One step: the new parameters and state, and what the metrics say of it."""
        config, start = self.config, time.perf_counter()
        T, Y = draw_batch(self.corpus.train, config.batch, config.sequence, config.seed, self.step)
        inputs = _inputs(self.executable, T, Y, config.seed, self.step)
        scale = None if self.scale is None else float(self.arrays[self.scale])
        with np.errstate(all="ignore"):  # what overflows is found in the results, and named
            result = self.executable(self.arrays, inputs)
        self.communicator.finish(f"step {self.step + 1}")
        loss, norm = float(result[self.loss]), float(result["optimizer/norm"])
        self.arrays = updated = result.updated()
        due = self.step + 1 == config.steps or _due(self.step + 1, config.checkpoint_every)
        record: Record = {"step": self.step + 1, "loss": loss, "lr": float(result["optimizer/lr"])}
        skipped = False
        if scale is None:
            record["norm"] = norm
        else:
            skipped = self._note_scale(record, norm, scale)
        wrong = not (math.isfinite(loss) and (skipped or math.isfinite(norm)))
        if due and not wrong:  # loss and norm are the same on all ranks, the blocks of what is updated are not
            wrong = bool(self.communicator.agree(not all(bool(np.isfinite(array).all()) for array in updated.values())))
        if wrong:
            self._blame(inputs, loss, norm)
        self.step += 1
        seconds = time.perf_counter() - start
        self.longest = max(self.longest, seconds)
        return {**record, "tokens_per_second": round(config.batch * config.sequence / seconds, 1)}

    def _note_scale(self, record: Record, norm: float, scale: float) -> bool:
        """Puts the loss scale of a step into the record, and the norm if it was carried out.

        Returns whether the step was left out, as some are by design. A scale that has nowhere to fall is no reason to
        go on: the fault lies elsewhere.
        """
        record["scale"] = scale
        if math.isfinite(norm):
            record["norm"] = norm
            return False
        record["skipped"] = 1
        return scale > _LEAST_SCALE

    def _blame(self, inputs: Mapping[str, Any], loss: float, norm: float) -> None:
        """NonFiniteError that names the first node of this step to make NaN or infinity."""
        rate = f"lower --learning-rate (now {self.config.learning_rate:g})"
        where = f"step {self.step + 1} gives loss {loss:g}, gradient norm {norm:g}, and was not saved"
        try:
            with np.errstate(all="ignore"):
                self.executable.find_non_finite(self.arrays, inputs)
        except NonFiniteError as error:
            raise NonFiniteError(f"{where}: {error}; {rate}") from None
        raise NonFiniteError(f"{where}; {rate}")

    def _validate(self) -> float:
        """The mean loss per token over the validation batches, without dropout."""
        config, total, tokens = self.config, 0.0, 0
        parameters = {value.name: self.arrays[value.name] for value in self.forward.graph.parameters}
        ids, count = self.corpus.validation, config.validate_batches
        for T, Y in validation_batches(ids, config.batch, config.sequence, count):
            valid = int((Y >= 0).sum())
            with np.errstate(all="ignore"):
                result = self.forward(parameters, _inputs(self.forward, T, Y))
            self.communicator.finish("a validation")
            total += float(result[self.loss]) * valid
            tokens += valid
        return total / tokens

    # -- what is written ------------------------------------------------------------------------------

    def _save(self, last: bool) -> Path:
        path = self.folder.checkpoint(self.step)
        arrays: Arrays = {}
        # One after the other, so that who does not write holds no more than one whole array.
        for name, array in self.arrays.items():
            if name in self.beside:
                continue
            whole = self.executable.whole(name, array)
            self.communicator.finish(f"the gathering of {name}")
            if self.folder.leads:
                arrays[name] = to_numpy(whole)
        if not self.folder.leads:
            return path
        config, data = self.config.placed(), self.corpus.fingerprint
        arrays = self.vocabulary.strip(self.graph, arrays)
        sizes = {name: size for name, size in self.sizes.items() if name not in self.vocabulary.sizes}
        made = Checkpoint(self.step, config, sizes, data, self.tokenizer, path, arrays, base=self.base)
        self.folder.save(made, self.config.keep)
        if last:
            self.subject.write(self.folder.path / TRAINED, arrays, tokenizer_of(self.config.tokenizer))
        return path


def _inputs(executable: Executable, T: Ids, Y: Ids, seed: int = 0, step: int = 0) -> dict[str, Any]:
    """What the program asks for; texts begin where their windows do, and are of one type."""
    places = np.broadcast_to(np.arange(T.shape[1]), T.shape)
    known = {"T": T, "Y": Y, "seed": seed, "step": step, "positions": places, "length": T.shape[1]}
    return {value.name: known[value.name] for value in executable.source.inputs}


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
