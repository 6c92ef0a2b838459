"""Tokens to test against, besides the SoftHSM of `strongroom init`: STRONGROOM_TEST_TOKEN names one,
unless the test does.

Each says how the server finds it (`uri`, `toml`), how to take it away and bring it back, which files it has, and which
backing keys it holds, seen past the server.
"""

import os
import pathlib
import re
import socket
import subprocess
import sys
import time

MODULES = ["/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so"]
TARGET = pathlib.Path(__file__).parents[3] / "target"
NAME = os.environ.get("STRONGROOM_TEST_TOKEN", "softhsm")
PIN = "strong-r"


def module():
    return next(path for path in MODULES if os.path.exists(path))


def _run(*arguments, env=None, stdin=None):
    out = subprocess.run(list(map(str, arguments)), env=os.environ | (env or {}), capture_output=True, text=True, input=stdin)
    assert out.returncode == 0, (arguments, out.stdout, out.stderr)
    return out.stdout


class Pkcs11:
    """What pkcs11-tool sees of a token."""

    # Whether nobody else may look while the server does.
    EXCLUSIVE = False

    def __init__(self, dir):
        self.dir = dir

    def objects(self, label="strongroom", kind="secrkey"):
        out = _run("pkcs11-tool", "--module", self.module, "--token-label", label, "--login", "--pin",
                   pathlib.Path(self.pin).read_text(), "--list-objects", "--type", kind, env=self.env)
        return sorted(set(re.findall(r"ID:\s+([0-9a-f]{64})", out)))

    def files(self):
        return [path for path in self.store.rglob("*") if path.is_file()]

    def unplug(self):
        self.store.rename(self.store.with_suffix(".away"))

    def plug_in(self):
        self.store.with_suffix(".away").rename(self.store)

    def stop(self):
        pass

    def toml(self):
        lines = "\n".join(f'{name} = "{value}"' for name, value in self.env.items())
        return f"[hsm.env]\n{lines}\n"

    def _uri(self):
        return f"pkcs11:token=strongroom?module-path={self.module}&pin-source=file:{self.pin}"


class SoftHsm(Pkcs11):
    """The one that `strongroom init` makes."""

    uri = None

    def __init__(self, dir):
        super().__init__(dir)
        home = dir / "home"
        self.module, self.store, self.pin = module(), home / "tokens", home / "pin"
        self.env = {"SOFTHSM2_CONF": str(home / "softhsm2.conf")}


class Kryoptic(Pkcs11):
    def __init__(self, dir):
        super().__init__(dir)
        self.module = TARGET / "modules/libkryoptic_pkcs11.so"
        assert self.module.exists(), "run ci/modules"
        self.store, self.pin = dir / "kryoptic", dir / "pin"
        self.store.mkdir()
        self.pin.write_text(PIN)
        conf = dir / "kryoptic.conf"
        conf.write_text(f'[[slots]]\nslot = 1\ndbtype = "sqlite"\ndbargs = "{self.store}/token.sql"\n')
        self.env = {"KRYOPTIC_CONF": str(conf)}
        _run("pkcs11-tool", "--module", self.module, "--init-token", "--slot", "1", "--label", "strongroom", "--so-pin",
             "76543210", env=self.env)
        _run("pkcs11-tool", "--module", self.module, "--login", "--login-type", "so", "--so-pin", "76543210",
             "--init-pin", "--pin", PIN, env=self.env)
        self.uri = self._uri()


class OpenCryptoki(Pkcs11):
    """Its daemon, configuration and tokens are the machine's: the test runs in namespaces where they are its own."""

    INSIDE = "STRONGROOM_TEST_OPENCRYPTOKI"
    STATE = r"""
set -e
mount --make-rprivate /
mkdir "$1/etc" "$1/lib" "$1/run" "$1/shm"
printf 'version opencryptoki-3.1\nslot 3\n{\nstdll = libpkcs11_sw.so\n}\n' >"$1/etc/opencryptoki.conf"
mkdir -p "$1/lib/swtok/TOK_OBJ" "$1/run/lock/opencryptoki/swtok" "$1/run/log"
chgrp -R pkcs11 "$1/lib" "$1/run"
chmod -R 770 "$1/lib" "$1/run"
mount --bind "$1/etc" /etc/opencryptoki
mount --bind "$1/lib" /var/lib/opencryptoki
mount --bind "$1/run" /run
mount --bind "$1/shm" /dev/shm
shift
exec "$@"
"""

    @classmethod
    def enter(cls):
        """Starts the test again, inside, unless it is there."""
        if cls.INSIDE in os.environ:
            return
        import tempfile
        with tempfile.TemporaryDirectory(prefix="opencryptoki-") as dir:
            done = subprocess.run(["unshare", "--mount", "--ipc", "bash", "-c", cls.STATE, "bash", dir, sys.executable,
                                   *sys.argv], env=os.environ | {cls.INSIDE: dir})
        sys.exit(done.returncode)

    def __init__(self, dir):
        super().__init__(dir)
        self.module = "/usr/lib/x86_64-linux-gnu/pkcs11/libopencryptoki.so"
        self.store, self.pin, self.env = pathlib.Path("/var/lib/opencryptoki/swtok/TOK_OBJ"), dir / "pin", {}
        self.pin.write_text(PIN)
        self._start_daemon()
        for arguments, stdin in [("-I -S 87654321", "strongroom\n"), ("-P -S 87654321 -n 76543210", ""),
                                 ("-u -S 76543210 -n 11111111", ""), (f"-p -U 11111111 -n {PIN}", "")]:
            said = _run("pkcsconf", "-c", "3", *arguments.split(), stdin=stdin)
            assert "Error" not in said, said
        self.uri = self._uri()

    def _start_daemon(self):
        self.daemon = subprocess.Popen(["/usr/sbin/pkcsslotd", "-f"], stdout=subprocess.DEVNULL)
        deadline = time.time() + 10
        while not os.path.exists("/run/pkcsslotd.socket"):
            assert time.time() < deadline, "pkcsslotd has no socket"
            time.sleep(0.02)

    # For processes that start meanwhile; who has the token open keeps it.
    def unplug(self):
        self.stop()

    def plug_in(self):
        self._start_daemon()

    def stop(self):
        if self.daemon.poll() is None:
            self.daemon.terminate()
            try:
                self.daemon.wait(5)
            except subprocess.TimeoutExpired:
                # It waits for clients that were killed.
                self.daemon.kill()
                self.daemon.wait()
                pathlib.Path("/run/pkcsslotd.socket").unlink(missing_ok=True)


class Swtpm:
    EXCLUSIVE = True

    def __init__(self, dir):
        self.store, self.process, self.env = dir / "tpm", None, {}
        self.store.mkdir()
        for _ in range(20):
            self.port = _two_free_ports()
            if self._launch():
                break
        else:
            raise AssertionError("swtpm found no two free ports")
        self.uri = f"tpm2:swtpm:host=127.0.0.1,port={self.port}"

    def _launch(self):
        self.process = subprocess.Popen(
            ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self.store}", "--server", f"type=tcp,port={self.port}",
             "--ctrl", f"type=tcp,port={self.port + 1}", "--flags", "not-need-init,startup-clear"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.time() + 10
        while True:
            if self.process.poll() is not None:
                return False
            try:
                socket.create_connection(("127.0.0.1", self.port + 1), 1).close()
                return True
            except OSError:
                assert time.time() < deadline, "swtpm does not listen"
                time.sleep(0.02)

    def toml(self):
        return "[hsm.env]\n"

    def objects(self, _label=None):
        """Every key has an NV counter that bears its identity where a policy would be."""
        out = _run("tpm2_nvreadpublic", "-T", f"swtpm:host=127.0.0.1,port={self.port}")
        return sorted(found.lower() for found in re.findall(r"authorization policy: ([0-9A-Fa-f]{64})", out))

    def files(self):
        return [path for path in self.store.rglob("*") if path.is_file()]

    def unplug(self):
        self.stop()

    def plug_in(self):
        deadline = time.time() + 10
        while not self._launch():
            assert time.time() < deadline, "swtpm does not start again"
            time.sleep(0.05)

    def stop(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def _two_free_ports():
    while True:
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
            try:
                two.bind(("127.0.0.1", port + 1))
                return port
            except (OSError, OverflowError):
                continue


KINDS = {"softhsm": SoftHsm, "kryoptic": Kryoptic, "opencryptoki": OpenCryptoki, "swtpm": Swtpm}


def enter():
    """What a kind needs before the test begins."""
    if NAME == "opencryptoki":
        OpenCryptoki.enter()


def make(dir, name=None):
    return KINDS[name or NAME](dir)
