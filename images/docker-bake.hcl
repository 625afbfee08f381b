// For engines with buildx, from the repository's root:
//   docker buildx bake --file images/docker-bake.hcl [cpu] [cuda] [cli]
// `make images` builds the same with any engine. Both take build/wheels/<variant> where `make wheels` filled it.

variable "VERSION" { default = "0.1.0" }
variable "REVISION" { default = "" }
variable "SOURCE" { default = "" }
// what stands before the images' name, with its slash: registry.example.org/mesh/
variable "REGISTRY" { default = "" }
variable "PYTHON_IMAGE" { default = "python:3.11-slim-bookworm" }
// where torch's CPU build is; the CUDA variant takes PyPI's
variable "TORCH_INDEX" { default = "https://download.pytorch.org/whl/cpu" }
// 1: nothing but the wheels, which `make wheels` gathered
variable "OFFLINE" { default = "" }

group "default" { targets = ["cpu"] }

target "_common" {
  context    = "."
  dockerfile = "images/Dockerfile"
  args = {
    PYTHON_IMAGE = PYTHON_IMAGE
    OFFLINE      = OFFLINE
    VERSION      = VERSION
    REVISION     = REVISION
    SOURCE       = SOURCE
  }
  attest = ["type=sbom", "type=provenance,mode=min"]
}

target "cpu" {
  inherits = ["_common"]
  tags     = ["${REGISTRY}flaremesh:${VERSION}"]
  args     = { WHEELS = "build/wheels/cpu", TORCH_INDEX = TORCH_INDEX }
}

target "cuda" {
  inherits = ["_common"]
  tags     = ["${REGISTRY}flaremesh:${VERSION}-cuda"]
  args     = { WHEELS = "build/wheels/cuda", GPUS = "all" }
}

target "cli" {
  inherits = ["_common"]
  tags     = ["${REGISTRY}flaremesh:${VERSION}-cli"]
  args     = { WHEELS = "build/wheels/cli", TORCH_INDEX = TORCH_INDEX, EXTRAS = "deploy" }
}
