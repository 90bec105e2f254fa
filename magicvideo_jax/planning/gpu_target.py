"""What XLA's CUDA compiler must know of a GPU that is not present."""

from dataclasses import dataclass

CUDNN = (9, 12, 0)
"""Version of cuDNN to compile for: the oldest that the pinned JAX takes."""
CUDA = "13.0.0"


@dataclass(frozen=True)
class GPUTarget:
    """What XLA's compiler knows of a GPU: fields of its `GpuTargetConfigProto`."""

    device: str
    """Name that the driver gives it."""
    capability: str
    features: str
    """Set of instructions: those of one architecture alone (`ACCELERATED_FEATURES`), or `NONE`."""
    cores: int
    fpus: int
    """Floating-point units per core."""
    memory: int
    """Bytes."""
    bandwidth: int
    """Bytes/s of main memory."""
    l2: int
    clock: float
    """GHz."""
    shared: int
    """Bytes of shared memory per core."""
    shared_optin: int
    """The most bytes of it that one block may ask for."""

    def proto(self) -> str:
        """The proto as text."""
        major, minor = self.capability.split(".")
        cudnn = ".".join(map(str, CUDNN))
        return f"""
gpu_device_info {{
  cuda_compute_capability {{ major: {major} minor: {minor} feature_extension: {self.features} }}
  core_count: {self.cores}
  fpus_per_core: {self.fpus}
  clock_rate_ghz: {self.clock}
  device_memory_size: {self.memory}
  memory_bandwidth: {self.bandwidth}
  l2_cache_size: {self.l2}
  shared_memory_per_core: {self.shared}
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: {self.shared_optin}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  threads_per_core_limit: 2048
  threads_per_block_limit: 1024
  threads_per_warp: 32
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  pcie_bandwidth: 34359738368
  device_address_bits: 64
  ecc_enabled: true
  device_vendor: "NVIDIA Corporation"
  name: "{self.device}"
  # Without these versions products and attention stay out of CUDA graphs.
  driver_version: "{CUDA}"
  runtime_version: "{CUDA}"
  compile_time_toolkit_version: "{CUDA}"
  dnn_version: "{cudnn}"
}}
platform_name: "CUDA"
dnn_version_info {{ major: {CUDNN[0]} minor: {CUDNN[1]} patch: {CUDNN[2]} }}
device_description_str: "{self.device}"
"""
