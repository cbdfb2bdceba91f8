"""One ONNX file: its contract, and a session that turns pixels into scores."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from ..errors import ModelError, NotExplainable
from ..runtime.memory import trim_heap
from .contract import Contract
from .model_file import ModelFile

INPUT: Final = "image"
SCORES: Final = "scores"
#: How unlike everything that the model knows a photo is, in the files that have it.
NOVELTY: Final = "novelty"
#: What explains a score, in the files that have it: see ``Model.class_activation_map``.
EVIDENCE: Final = "evidence"
EVIDENCE_BIAS: Final = "evidence_bias"
EVIDENCE_CLASS: Final = "evidence_class"
#: What the formats are told apart by: bytes 4 to 7 of a FlatBuffer of ONNX Runtime's own.
_ORT_FORMAT: Final = b"ORTM"


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """What a model says about one picture.

    Attributes:
        scores: ``float32 [C]``: a softmax, or independent ones where the contract says ``multi_label``.
        unknown: whether it shows none of the classes, by the model's own threshold.
    """

    scores: NDArray[np.float32]
    unknown: bool


class Model:
    """A loaded model; safe to call from several threads at once."""

    def __init__(self, path: Path, threads: int = 1, data: bytes | None = None) -> None:
        """Loads a model file.

        Args:
            path: an ONNX file that ``model_build`` wrote.
            threads: threads that one call may use.
            data: its bytes, where they were read already: what was checked is then what is loaded.

        Raises:
            ModelError: the file is missing or damaged, is not an ONNX model that is complete in itself, or its graph
                and contract do not fit together.
        """
        if data is None:
            _, data = ModelFile.read(path)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Spinning burns the other workers' core while it waits.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # The arena keeps the largest batch's memory forever; plain malloc gives it back.
        options.enable_cpu_mem_arena = False
        options.log_severity_level = 3
        # One format, whatever the bytes look like.
        options.add_session_config_entry("session.load_model_format", "ONNX")
        # Weights in other files are in no checksum. Nothing can lie below a device, so none are found; absolute paths
        # and those that lead upwards ONNX Runtime refuses itself.
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
        try:
            self._session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ModelError(f"{path} is not a loadable ONNX model: {_reason(error, data)}") from error
        # The binding keeps the file's bytes for a change of providers, which never comes.
        self._session._model_bytes = None
        self.path = path
        self.threads = threads
        try:
            self.contract = Contract.from_metadata(self._session.get_modelmeta().custom_metadata_map)
            self._check_interface()
        except UnicodeDecodeError as error:
            raise ModelError(f"{path} cannot be served: its metadata are not UTF-8") from error
        except ModelError as error:
            raise ModelError(f"{path} cannot be served: {error}") from error
        trim_heap()
        self._run_options = ort.RunOptions()
        # The feature map is an output too; what is not asked for is not computed.
        self._run_options.only_execute_path_to_fetches = True

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Scores of a batch.

        Args:
            pixels: ``uint8 [N, H, W, 3]``, RGB, as ``imaging.load`` makes them.

        Returns:
            ``float32 [N, C]``, the scores.
        """
        scores: NDArray[np.float32] = self._session.run([SCORES], {INPUT: pixels}, self._run_options)[0]
        return scores

    def judge(self, pixels: NDArray[np.uint8]) -> Scored:
        """What the model says about one picture, ``uint8 [H, W, 3]``, in one run."""
        feeds = {INPUT: pixels[np.newaxis]}
        scores, *novelty = self._session.run([SCORES, *self._novelty], feeds, self._run_options)
        return Scored(scores[0], bool(self._unknown(scores, *novelty)[0]))

    def novelty(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """``float32 [N]``, how unlike everything the model knows the pictures of a batch are; its file must say it."""
        found: NDArray[np.float32] = self._session.run([NOVELTY], {INPUT: pixels}, self._run_options)[0]
        return found

    def class_activation_map(
        self, pixels: NDArray[np.uint8], index: int | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float32], NDArray[np.float32]]:
        """Scores of a batch, and where in the pictures the evidence for a class lies, in the same run.

        The class activation map of Zhou et al. 2016, arXiv:1512.04150: what each cell of the last feature map adds to
        the class's logit. ``map[i].mean() + bias[i]`` is the logit that the softmax or sigmoid reads, divided by the
        temperature already; so behind a softmax the log of two classes' scores differs by what their maps' means and
        biases differ by.

        Args:
            pixels: ``uint8 [N, H, W, 3]``, as for a call.
            index: the class; None: each picture's best one.

        Returns:
            ``float32 [N, C]``, the scores; ``bool [N]``, whether a picture shows none of the classes;
            ``float32 [N, h, w]``, the maps, rows from top to bottom; ``float32 [N]``,
            the biases: the classifier's own, and in an int8 model what rounding the pooled features changes.

        Raises:
            NotExplainable: the file has no such output.
        """
        self.check_explainable()
        feeds = {INPUT: pixels}
        if index is not None:
            feeds[EVIDENCE_CLASS] = np.array([index])
        outputs = [EVIDENCE, EVIDENCE_BIAS, SCORES, *self._novelty]
        evidence, bias, scores, *novelty = self._session.run(outputs, feeds, self._run_options)
        return scores, self._unknown(scores, *novelty), evidence, bias

    def check_explainable(self) -> None:
        """Raises NotExplainable if the file cannot say where its evidence lies."""
        if not self._explainable:
            raise NotExplainable(
                f"The model {self.contract.name!r} cannot say where its evidence lies. Either its classifier is not "
                "one linear layer behind global average pooling with a unit for each class, or an earlier version "
                "exported its file: then export it again."
            )

    def abandon(self) -> None:
        """Ends the call that is running in another thread, and every later one, with an error."""
        self._run_options.terminate = True

    def _unknown(self, scores: NDArray[np.float32], novelty: NDArray[np.float32] | None = None) -> NDArray[np.bool_]:
        """The one place that says which pictures show none of the classes: ``bool [N]``.

        Args:
            scores: ``float32 [N, C]``.
            novelty: ``float32 [N]``, where the file says it.
        """
        threshold = self.contract.unknown_above
        unknown: NDArray[np.bool_] = scores.max(axis=1) < self.contract.unknown_below
        if novelty is not None and threshold is not None:
            # Not `novelty > threshold`: a NaN is nothing that the model knows.
            unknown = np.logical_not(novelty <= threshold)
        return unknown

    def _check_interface(self) -> None:
        resize, classes = self.contract.resize, len(self.contract.labels)
        inputs, outputs = self._session.get_inputs(), {value.name: value for value in self._session.get_outputs()}
        expected = ["uint8", resize.height, resize.width, 3]
        found = [inputs[0].type.removeprefix("tensor(").removesuffix(")"), *inputs[0].shape[1:]]
        if len(inputs) != 1 or inputs[0].name != INPUT or found != expected:
            raise ModelError(f"its input is {inputs[0].name} {found}; the contract says {INPUT} {expected}")
        if SCORES not in outputs or outputs[SCORES].shape[-1] != classes:
            raise ModelError(f"it has no output {SCORES} with the contract's {classes} classes")
        self._explainable = EVIDENCE in outputs
        self._novelty = [NOVELTY] if NOVELTY in outputs else []
        if self._novelty and self.contract.unknown_above is None:
            raise ModelError(f"it has an output {NOVELTY}, but its contract no threshold for it (unknown_above)")
        if not self._novelty and self.contract.unknown_above is not None:
            raise ModelError(f"its contract has a threshold (unknown_above), but it has no output {NOVELTY} to compare")
        if self._novelty and (outputs[NOVELTY].type != "tensor(float)" or len(outputs[NOVELTY].shape) != 1):
            kind, shape = outputs[NOVELTY].type, outputs[NOVELTY].shape
            raise ModelError(f"its output {NOVELTY} is {kind} {shape}; one float for each picture is needed")


def _reason(error: Exception, data: bytes) -> str:
    """Why it cannot be loaded, on one line."""
    found = " ".join(str(error).split())[:1000]
    if data[4:8] == _ORT_FORMAT:
        return "it is in ONNX Runtime's own format (.ort); give the ONNX file that it was made from"
    if "external" in found.lower():
        return f"it keeps weights in other files, which are in no checksum; save it as one file ({found})"
    if "protobuf parsing failed" in found.lower():
        return f"truncated, not yet complete, or something else ({found})"
    return found
