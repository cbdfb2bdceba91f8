"""Runs a graph in ONNX Runtime while a model is being built: quietly, and without keeping the memory it has used."""

import onnx
import onnxruntime as ort

from app.runtime.cpus import usable_cpus


def session(proto: onnx.ModelProto) -> ort.InferenceSession:
    """A session on all CPUs that may be used. Its errors are whatever ONNX Runtime raises."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = usable_cpus().count
    options.log_severity_level = 4
    # An arena keeps the largest run's memory as long as the session lives, and several live side by side.
    options.enable_cpu_mem_arena = False
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
