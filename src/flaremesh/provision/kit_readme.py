"""The page that goes with each kit."""

from typing import Final

from flaremesh.certificates import Kind
from flaremesh.issuing import Profile
from flaremesh.p2p.nvflare.startup import StartupFiles

README: Final = "readme.txt"
"""Its name, in the place of NVFlare's own."""

_PAGE = """Startup kit of {name} in the mesh {mesh}

startup/  the certificates, the charter that says what {name} may do, signed by the mesh's root,
          and where the server is
local/    settings that are {name}'s own
{start}
Whoever has the private key, {key}, is {name}. There are two ways to it:

- It came with the kit. Let the kit travel in no way in which others can read it.
- It never travels. Where {name} runs,
      flaremesh request {name}
  writes {name}.key, which stays there, and {name}.csr, which goes to whoever provisions the mesh:
      flaremesh sign TOPOLOGY {name}.csr
  The kit that comes back has no key: copy {name}.key to {key}, readable by its owner alone.

If somebody else may have the key or the kit, say so at once to whoever provisions the mesh: a new kit
closes the old one out, and listing the old certificate as revoked does so for good.
"""

_START = """
Start it from the folder that holds startup and local, which is its workspace:

    python -m flaremesh.p2p.participant FOLDER
"""


def kit_readme(mesh: str, profile: Profile, files: StartupFiles) -> str:
    """What the holder of a kit must know.

    Args:
        mesh: its name.
        profile: whose kit it is.
        files: the kit's.
    """
    start = "" if profile.kind is Kind.ADMIN else _START
    return _PAGE.format(name=profile.name, mesh=mesh, key=f"startup/{files.key.name}", start=start)
