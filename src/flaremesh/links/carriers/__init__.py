"""The ways by which the bytes of a pair travel; `flaremesh.links.assemble` alone knows them all."""
