"""Networks in files that other programs write: TorchScript and ONNX graphs."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from gan_backbones.backbone import BackboneError

GRAPH_ENDINGS = (".onnx", ".pt", ".ts")


def read_network(path: str | Path) -> nn.Module:
    """Read a network from a TorchScript file (``.ts``, ``.pt``) or an ONNX file (``.onnx``).

    Reading runs no Python, pickled or other. But the graph itself is a program: TorchScript has
    operators that write files, ONNX graphs may name other files to read weights from, and either
    can use up memory and time. Take them from those whose programs you would run; safetensors
    hold numbers alone.

    Raises:
        BackboneError: another ending, or a missing or damaged file, or an ONNX graph that cannot
            be a network of a backbone.
        ModuleNotFoundError: ONNX Runtime is not installed; the message says how to get it.
    """
    path = Path(path)
    if path.suffix not in GRAPH_ENDINGS:
        raise BackboneError(f"{path}: no graph file; its ending must be one of {GRAPH_ENDINGS}")
    if not path.is_file():
        raise BackboneError(f"{path}: no such file")
    return OnnxNetwork(path) if path.suffix == ".onnx" else TorchScriptNetwork.read(path)


def latent_shape(generator: nn.Module) -> tuple[int, ...] | None:
    """The shape of the latents that a generator from a graph file wants, if it can be told.

    An ONNX graph states it. TorchScript does not; there it is ``(d,)`` or ``(d, 1, 1)`` for the one
    ``d``, among the sizes of its parameters, that it accepts.
    """
    if isinstance(generator, OnnxNetwork):
        shape = generator.input_shape or ()
        known = tuple(size for size in shape if size)
        return known if len(known) == len(shape) else None
    sizes = {size for parameter in generator.parameters() for size in parameter.shape}
    accepted = [size for size in sizes if _accepts(generator, (size,))]
    if len(accepted) == 1:
        return (accepted[0],)
    accepted = [size for size in sizes if _accepts(generator, (size, 1, 1))]
    return (accepted[0], 1, 1) if len(accepted) == 1 else None


class TorchScriptNetwork(nn.Module):
    """A TorchScript module as an ordinary one, which can be frozen and pickled.

    Args:
        script: is frozen and put in evaluation mode. What was traced in training mode stays so.
    """

    def __init__(self, script: torch.jit.ScriptModule):
        super().__init__()
        self.script = script
        self.requires_grad_(False).eval()

    @classmethod
    def read(cls, path: str | Path) -> TorchScriptNetwork:
        """Read what ``torch.jit.save`` wrote.

        Raises:
            BackboneError: the file is damaged or no TorchScript.
        """
        try:
            return cls._load(str(path))
        except (OSError, RuntimeError) as error:
            reason = str(error).strip().partition("\n")[0].partition(". ")[0]
            raise BackboneError(f"{path}: damaged or not a TorchScript file ({reason})") from None

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.script(inputs)

    @classmethod
    def _load(cls, source: str | io.BytesIO) -> TorchScriptNetwork:
        with _without_deprecation():
            return cls(torch.jit.load(source, map_location="cpu"))

    @classmethod
    def _unpickle(cls, data: bytes) -> TorchScriptNetwork:
        return cls._load(io.BytesIO(data))

    def __reduce__(self):
        buffer = io.BytesIO()
        with _without_deprecation():
            torch.jit.save(self.script, buffer)
        return TorchScriptNetwork._unpickle, (buffer.getvalue(),)


@contextlib.contextmanager
def _without_deprecation() -> Iterator[None]:
    """TorchScript is deprecated, which is for those who write such files to know."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`torch.jit")
        yield


class OnnxNetwork(nn.Module):
    """An ONNX graph of one float32 input and one output, run by ONNX Runtime on the CPU.

    It has no gradients. Copies share the session; pickles hold the file's path, not its content.
    As many threads as ``torch.get_num_threads()`` said when it was made.

    Args:
        path: the ``.onnx`` file.

    Attributes:
        input_shape: the input's shape without the batch's axis; ``None`` at axes of any length.

    Raises:
        BackboneError: a damaged file, or another kind of graph.
        ModuleNotFoundError: ONNX Runtime is not installed; the message says how to get it.
    """

    def __init__(self, path: str | Path):
        super().__init__()
        self.path = str(Path(path).absolute())
        self._session = _start_session(self.path)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1:
            raise BackboneError(
                f"{path}: it has {len(inputs)} inputs and {len(outputs)} outputs; "
                "expected one of each"
            )
        if inputs[0].type != "tensor(float)":
            raise BackboneError(f"{path}: its input is {inputs[0].type}; expected tensor(float)")
        sizes = tuple(size if isinstance(size, int) else None for size in inputs[0].shape)
        if sizes and sizes[0] is not None:
            raise BackboneError(
                f"{path}: its batches are of {sizes[0]}; export it with a first axis of any length"
            )
        self.input_shape = sizes[1:]
        self.eval()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if inputs.requires_grad and torch.is_grad_enabled():
            raise BackboneError(f"{self.path}: ONNX networks have no gradients")
        (name,) = (given.name for given in self._session.get_inputs())
        values = inputs.detach().float().contiguous().numpy()
        (outputs,) = self._session.run(None, {name: values})
        return torch.from_numpy(outputs)

    def _apply(self, fn, recurse=True):
        if (device := fn(torch.empty(0, dtype=torch.float32)).device).type != "cpu":
            raise BackboneError(f"{self.path}: ONNX networks run on cpu; cannot move to {device}")
        return super()._apply(fn, recurse)

    def __deepcopy__(self, memo):
        return self  # it never changes, and another session would take its memory again

    def __reduce__(self):
        return OnnxNetwork, (self.path,)


def _accepts(generator: nn.Module, shape: tuple[int, ...]) -> bool:
    try:
        with torch.no_grad():
            return len(generator(torch.zeros(2, *shape, dtype=torch.float32))) == 2
    except Exception:  # whatever it is, it does not accept that shape
        return False


def _start_session(path: str):
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f'{path}: reading it needs ONNX Runtime: pip install "latentgym[onnx]"',
            name="onnxruntime",
        ) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors; they are raised anyway
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own kinds derive from no narrower one
        reason = " ".join(str(error).split())
        raise BackboneError(f"{path}: damaged or not an ONNX file ({reason})") from None
