#!/bin/bash
# vLLM out of the container image on the shared file system: what tokenfork's --vllm starts.
exec apptainer exec --nv --bind /shared /shared/software/vllm.sif vllm "$@"
