"""A server to test against: the real program, a fresh token (tokens.py), loopback only."""

import base64
import hashlib
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import boto3
import botocore.config
import botocore.exceptions

import tokens
from tokens import module

PROGRAM = os.environ["STRONGROOM_PROGRAM"]
START_SECONDS = 30


def clean_environment():
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "STRONGROOM_", "SOFTHSM2_"))}
    return kept | {"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/dev/null", "AWS_PAGER": ""}


class Server:
    """A running server. Use as a context manager; `stop`, `kill` and `start` act on the same directories."""

    def __init__(self, config="", token=None):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="strongroom-test-"))
        self.home = self.dir / "home"
        self.extra = config
        self.process = None
        self.clock = {}
        self.token = tokens.make(self.dir, token)
        named = ["--hsm-uri", self.token.uri] if self.token.uri else []
        out = subprocess.run([PROGRAM, "init", str(self.home), *named], env=clean_environment(), capture_output=True,
                             text=True)
        assert out.returncode == 0, out.stderr
        text = (self.home / "strongroom.toml").read_text().replace("127.0.0.1:9000", "127.0.0.1:0")
        if self.token.uri:
            assert text.count("[hsm.env]\n") == 1
            text = text.replace("[hsm.env]\n", self.token.toml())
        for line in filter(None, self.extra.splitlines()):
            key = line.split("=")[0].strip()
            text, n = re.subn(rf"(?m)^{re.escape(key)} = .*$", line.strip(), text)
            assert n == 1, f"{key} occurs {n} times"
        (self.home / "strongroom.toml").write_text(text)
        self.data, self.tokens = self.home / "data", self.home / "tokens"
        creds = dict(l.split(" = ", 1) for l in (self.home / "credentials").read_text().splitlines() if " = " in l)
        self.key_id, self.secret = creds["aws_access_key_id"], creds["aws_secret_access_key"]
        self.region = "us-west-2"
        self.start()

    def start(self):
        log = open(self.dir / "log", "a+")
        start = log.tell()
        self.process = subprocess.Popen(
            [PROGRAM, "serve", "--config", str(self.home / "strongroom.toml")],
            env=clean_environment() | self.clock, stdout=subprocess.DEVNULL, stderr=log)
        deadline = time.time() + START_SECONDS
        while True:
            text = (self.dir / "log").read_text()[start:]
            found = re.search(r'event="server.listening" address=(\S+)', text)
            if found:
                break
            assert self.process.poll() is None and time.time() < deadline, text
            time.sleep(0.02)
        self.address = found.group(1)
        self.endpoint = f"http://{self.address}"
        return self

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            assert self.process.wait(60) == 0, (self.dir / "log").read_text()[-3000:]

    def kill(self):
        self.process.kill()
        self.process.wait()

    def start_later(self, days):
        """Starts with a calendar, its own and that of the AWS CLI, that is so many days ahead."""
        [library] = pathlib.Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
        self.clock = {"LD_PRELOAD": str(library), "FAKETIME": f"+{days}d", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        return self.start()

    def __enter__(self):
        return self

    def __exit__(self, failed, *_):
        if failed:
            sys.stderr.write((self.dir / "log").read_text()[-4000:])
            self.kill()
        else:
            self.stop()
        self.token.stop()
        shutil.rmtree(self.dir)

    def environment(self):
        return clean_environment() | self.clock | {
            "AWS_ENDPOINT_URL": self.endpoint, "AWS_ACCESS_KEY_ID": self.key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret, "AWS_REGION": self.region, "AWS_DEFAULT_REGION": self.region}

    def aws(self, command, *rest, fails=None):
        """Runs the AWS CLI; returns its JSON. With `fails`, it must fail and say so."""
        out = subprocess.run(["aws", *shlex.split(command), *map(str, rest)], env=self.environment(),
                             capture_output=True, text=True, timeout=300)
        if fails is not None:
            assert out.returncode != 0 and fails in out.stderr, (command, out.stdout, out.stderr)
            return out.stderr
        assert out.returncode == 0, (command, out.stderr, (self.dir / "log").read_text()[-2000:])
        try:
            return json.loads(out.stdout)
        except json.JSONDecodeError:
            return out.stdout

    def client(self, service="s3", **config):
        config.setdefault("retries", {"max_attempts": 0})
        return boto3.session.Session().client(
            service, endpoint_url=self.endpoint, region_name=self.region, aws_access_key_id=self.key_id,
            aws_secret_access_key=self.secret, config=botocore.config.Config(**config))

    def add_account(self, number, key_id, secret):
        """One more account, in force from the next start; this restarts the server."""
        file = self.home / f"credentials-{number}"
        file.write_text(f"[default]\naws_access_key_id = {key_id}\naws_secret_access_key = {secret}\n")
        file.chmod(0o600)
        self.stop()
        with open(self.home / "strongroom.toml", "a") as config:
            config.write(f'\n[[accounts]]\nid = "{number}"\ncredentials_file = "{file}"\n')
        self.start()

    def client_as(self, service, key_id, secret, token=None):
        return boto3.session.Session().client(
            service, endpoint_url=self.endpoint, region_name=self.region, aws_access_key_id=key_id,
            aws_secret_access_key=secret, aws_session_token=token,
            config=botocore.config.Config(retries={"max_attempts": 0}))

    def rss_peak_kib(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", status).group(1))

    def token_objects(self, label="strongroom", **kind):
        """Identities of the backing keys in a token, seen past the server."""
        if not self.token.EXCLUSIVE:
            return self.token.objects(label, **kind)
        self.stop()
        found = self.token.objects(label, **kind)
        self.start()
        return found

    def blobs(self):
        return sorted(path for path in (self.data / "blobs").rglob("*") if path.is_file())

    def files(self):
        return [p for p in self.data.rglob("*") if p.is_file()] + self.token.files()

    def unplug(self):
        self.token.unplug()

    def plug_in(self):
        self.token.plug_in()


def refused(code, call, *args, status=None, **kwargs):
    """The call must fail with this code; returns the error's message."""
    try:
        answer = call(*args, **kwargs)
        if "Body" in answer:
            answer["Body"].read()
    except botocore.exceptions.ClientError as error:
        found = error.response["Error"]
        http = error.response["ResponseMetadata"]["HTTPStatusCode"]
        assert found["Code"] == code, f"{found} is not {code}"
        assert status is None or http == status, f"{http} is not {status}"
        return found.get("Message", "")
    raise AssertionError(f"{code} was expected, got {answer}")


def eventually(what, seconds=30):
    """Tries until it does not fail."""
    deadline = time.time() + seconds
    while True:
        try:
            return what()
        except (AssertionError, botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError):
            if time.time() > deadline:
                raise
            time.sleep(0.2)


def noise(n, seed=0):
    """n bytes that do not compress and are the same every time."""
    return hashlib.shake_256(b"noise%d" % seed).digest(n)


def customer_key(seed=1):
    key = hashlib.sha256(b"customer%d" % seed).digest()
    return {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": key}


def main(tests):
    """Runs the test that the command line names; without a name, lists them."""
    if len(sys.argv) == 1:
        print("\n".join(name for name, value in tests.items() if callable(value) and value.__module__ == "__main__" and not name.startswith("_")))
        return
    tokens.enter()
    tests[sys.argv[1]]()
