"""A server whose token is behind the fault module (hsm/fault-module), whose documentation describes the control file."""

import os
import pathlib
import re
import struct

from support import PROGRAM, Server, module

# Cargo builds it for these tests, as it does the program.
FAULT_MODULE = pathlib.Path(PROGRAM).parent / "deps" / "libstrongroom_fault_module.so"
RULES, RECORD = 256, 256
ARMED, LIFTED = 1, 2


class Control:
    """The writing end of a control file."""

    def __init__(self, path):
        self.file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.truncate(self.file, RULES * RECORD)
        self.used = 0

    def arm(self, rule):
        """`functions fault [number]`, and perhaps ` xCALLS`: for so many calls. Returns the place of the rule."""
        text, _, calls = rule.partition(" x")
        at, self.used = self.used * RECORD, self.used + 1
        assert self.used <= RULES and len(text) < RECORD - 24
        os.pwrite(self.file, struct.pack("<qQ", int(calls or -1), 0) + text.encode(), at + 8)
        os.pwrite(self.file, struct.pack("<Q", ARMED), at)
        return at

    def struck(self, at):
        """How many calls were struck so far."""
        return struct.unpack("<Q", os.pread(self.file, 8, at + 16))[0]

    def lift(self, at):
        """Returns how many calls were struck."""
        os.pwrite(self.file, struct.pack("<Q", LIFTED), at)
        return self.struck(at)


class FaultyServer(Server):
    """A server whose token is behind the fault module."""

    def __init__(self, config=""):
        self.control = None
        super().__init__(config=config)

    def start(self):
        if self.control is None:
            assert FAULT_MODULE.exists(), f"no {FAULT_MODULE}"
            path = self.home / "control"
            self.control = Control(path)
            config = self.home / "strongroom.toml"
            text, uris = re.subn(r"module-path=[^&\"]*", f"module-path={FAULT_MODULE}", config.read_text())
            env = f'[hsm.env]\nFAULT_MODULE_CONTROL = "{path}"\nFAULT_MODULE_INNER = "{module()}"\n'
            text, tables = re.subn(r"\[hsm\.env\]\n", env, text)
            assert (uris, tables) == (1, 1), text
            config.write_text(text)
        return super().start()
