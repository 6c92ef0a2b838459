"""The program: init, serve, key, hsm check; configuration and health."""

import http.client
import json
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import time

import boto3

from support import PROGRAM, Server, clean_environment, eventually, main


def _run(*arguments, env=None, fails=False):
    out = subprocess.run([PROGRAM, *map(str, arguments)], env=env or clean_environment(), capture_output=True, text=True,
                         timeout=60)
    assert (out.returncode != 0) == fails, (arguments, out.stdout, out.stderr)
    return out.stderr if fails else out.stdout


def init_serve_and_key_commands_work():
    with Server() as s:
        assert _run("init", s.home, fails=True).count("not empty") == 1
        assert re.fullmatch("AKIA[A-Z2-7]{16}", s.key_id) and len(s.secret) == 40, s.key_id
        for secret in "pin", "credentials", "strongroom.toml", "softhsm2.conf":
            assert (s.home / secret).stat().st_mode & 0o077 == 0, secret
        env = s.environment()
        made = json.loads(_run("key", "create", "--description", "by hand", "--alias", "alias/mine", env=env))
        assert made["Description"] == "by hand"
        assert re.search(rf"{made['KeyId']}  Enabled +alias/mine", _run("key", "list", env=env))
        assert json.loads(_run("key", "describe", "alias/mine", env=env))["Arn"] == made["Arn"]
        assert len(_run("key", "rotate", "alias/mine", env=env).splitlines()) == 2
        assert len(_run("key", "rotations", "alias/mine", env=env).splitlines()) == 2
        assert "Disabled" in _run("key", "disable", "alias/mine", env=env)
        assert "Enabled" in _run("key", "enable", "alias/mine", env=env)
        assert "PendingDeletion" in _run("key", "schedule-deletion", "alias/mine", "--days", "7", env=env)
        assert "Disabled" in _run("key", "cancel-deletion", "alias/mine", env=env)
        assert "NotFoundException" in _run("key", "describe", "alias/none", env=env, fails=True)
        shared = clean_environment() | {"AWS_SHARED_CREDENTIALS_FILE": str(s.home / "credentials")}
        assert made["KeyId"] in _run("key", "--endpoint", s.endpoint, "list", env=shared)


def _ephemeral(*flags, env={}):
    process = subprocess.Popen([PROGRAM, "serve", "--ephemeral", *flags], env=clean_environment() | env,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    exports = {}
    for _ in range(7):
        line = process.stdout.readline()
        name, value = re.fullmatch(r"export ([A-Z_]+)=(.*)\n", line).groups()
        exports[name] = value
    return process, exports


def an_ephemeral_server_prints_exports_and_cleans_up():
    with tempfile.TemporaryDirectory() as dir:
        for flags, kept, data in ([], False, None), (["--keep"], True, None), (["--data-dir", dir + "/d"], False, dir + "/d"):
            process, env = _ephemeral(*flags)
            assert set(env) == {"AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION",
                                "STRONGROOM_EPHEMERAL_DIR", "STRONGROOM_TOKEN_DIR", "STRONGROOM_PID"}
            assert int(env["STRONGROOM_PID"]) == process.pid
            assert data is None or env["STRONGROOM_EPHEMERAL_DIR"] == os.path.realpath(data)
            s3 = boto3.client("s3", endpoint_url=env["AWS_ENDPOINT_URL"], region_name=env["AWS_REGION"],
                              aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
                              aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"])
            s3.create_bucket(Bucket="vault")
            s3.put_object(Bucket="vault", Key="k", Body=b"x", ServerSideEncryption="aws:kms")
            assert list(pathlib.Path(env["STRONGROOM_TOKEN_DIR"]).iterdir())
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=30)
            assert (process.returncode, out) == (0, ""), err
            for name in "STRONGROOM_EPHEMERAL_DIR", "STRONGROOM_TOKEN_DIR":
                assert os.path.exists(env[name]) == kept, (flags, name)
            if kept:
                # A variable left over names no directory that would be deleted.
                kept_dir = pathlib.Path(env["STRONGROOM_TOKEN_DIR"]).parent
                stale = clean_environment() | {"STRONGROOM_LAID_OUT_DIR": str(kept_dir),
                                               "SOFTHSM2_CONF": str(kept_dir / "softhsm2.conf")}
                again = subprocess.Popen([PROGRAM, "serve", "--ephemeral"], env=stale, stdout=subprocess.PIPE,
                                         stderr=subprocess.DEVNULL, text=True)
                other = dict(again.stdout.readline()[7:-1].split("=", 1) for _ in range(7))
                again.send_signal(signal.SIGTERM)
                again.communicate(timeout=30)
                assert kept_dir.exists() and other["STRONGROOM_TOKEN_DIR"] != env["STRONGROOM_TOKEN_DIR"]
                import shutil
                shutil.rmtree(pathlib.Path(env["STRONGROOM_TOKEN_DIR"]).parent)


def an_ephemeral_server_takes_settings_of_the_environment_and_exports_none():
    settings = {"STRONGROOM_REGION": "eu-west-9", "STRONGROOM_LOG_FORMAT": "json", "STRONGROOM_LISTEN": "127.0.0.2:0"}
    process, exported = _ephemeral(env=settings)
    assert exported["AWS_REGION"] == "eu-west-9" and exported["AWS_ENDPOINT_URL"].startswith("http://127.0.0.2:")
    # Beside its exports, and its settings, another server is what its own configuration says.
    with Server() as s:
        env = clean_environment() | {name: value for name, value in exported.items() if name.startswith("STRONGROOM_")}
        shown = _run("serve", "--config", s.home / "strongroom.toml", "--print-config", env=env)
        assert f'data_dir = "{s.data}"' in shown, shown
    again, other = _ephemeral("--region", "eu-west-8", env=settings | exported)
    assert other["AWS_REGION"] == "eu-west-8"
    for server in process, again:
        server.send_signal(signal.SIGTERM)
        _, err = server.communicate(timeout=30)
        assert server.returncode == 0 and all(line.startswith("{") for line in err.splitlines()), err


def configuration_errors_name_the_key():
    assert "--config" in _run("serve", "--ephemeral", "--config", "x.toml", fails=True)
    assert "--config" in _run("key", "list", "--config", "x.toml", fails=True)
    with tempfile.TemporaryDirectory() as dir:
        path = pathlib.Path(dir) / "c.toml"

        def serve(text, *flags, fails=True):
            path.write_text(text)
            return _run("serve", "--config", path, *flags, fails=fails)

        assert "lissten" in serve('lissten = "127.0.0.1:0"')
        assert "data_dir" in serve("")
        assert "hsm.uri" in serve('data_dir = "/nowhere"')
        uri = "pkcs11:token=t?module-path=/m.so&pin-source=file:/p"
        assert "pin-value" in serve(f'data_dir = "/n"\n[hsm]\nuri = "{uri}&pin-value=sesame"')
        assert "sesame" not in serve(f'data_dir = "/n"\n[hsm]\nuri = "{uri}&pin-value=sesame"')
        assert "hsm.sessions" in serve(f'data_dir = "/n"\n[hsm]\nuri = "{uri}"\nsessions = 0')
        shown = serve(f'data_dir = "/n"\n[hsm]\nuri = "{uri}"', "--print-config", "--listen", "127.0.0.1:7", fails=False)
        assert 'listen = "127.0.0.1:7"' in shown and "deadline_ms = 5000" in shown
        env = clean_environment() | {"STRONGROOM_LISTEN": "127.0.0.1:8"}
        assert 'listen = "127.0.0.1:8"' in _run("serve", "--config", path, "--print-config", env=env)
        for command in ["serve", "--print-config"], ["serve", "--ephemeral"], ["hsm", "check"]:
            env = clean_environment() | {"STRONGROOM_AUDIT_SYNC": "always"}
            said = _run(*command, env=env, fails=True)
            assert "STRONGROOM_AUDIT_SYNC" in said and "STRONGROOM_LISTEN" in said, said
        for name in "DATA_DIR", "CREDENTIALS_FILE", "HSM_URI", "CONFIG":
            env = clean_environment() | {f"STRONGROOM_{name}": str(path)}
            said = _run("serve", "--ephemeral", env=env, fails=True)
            assert f"STRONGROOM_{name}: an ephemeral server has its own" in said, said


def _two(things):
    assert len(things) == 2, things
    return sorted(things)


def hsm_check_says_what_the_token_can_do():
    with Server() as s:
        # The keys of the records' MAC and of the audit are made soon after the first start; then the token is at rest.
        before = eventually(lambda: _two(s.token_objects()))
        said = _run("hsm", "check", "--config", s.home / "strongroom.toml")
        assert "This token can hold Strongroom's keys." in said and "serial" in said
        after = sorted(s.token_objects())
        assert after == before, (before, after)
        told = json.loads(_run("hsm", "check", "--json", "--config", s.home / "strongroom.toml"))
        token, = told["tokens"]
        assert token["safe"] and not token["dangers"] and "aes-gcm" in token["trial"]["wrap"]
        said = _run("hsm", "bench", "--sessions", "1,2", "--seconds", "1", "--config", s.home / "strongroom.toml")
        assert len(said.splitlines()) == 5
        lines = json.loads(_run("hsm", "bench", "--sessions", "1", "--seconds", "1", "--json", "--config",
                                s.home / "strongroom.toml"))
        assert lines[0]["unwrap"]["per_second"] > 100 and lines[0]["wrap"]["median_us"] > 1
        assert "sessions are 1 to" in _run("hsm", "bench", "--sessions", "0", "--config", s.home / "strongroom.toml",
                                           fails=True)
        assert sorted(s.token_objects()) == before
        (s.home / "pin").write_text("sesame")
        said = _run("hsm", "check", "--config", s.home / "strongroom.toml", fails=True)
        assert "PIN" in said and "sesame" not in said


def health_is_answered_from_cached_state():
    with Server() as s:
        def get(path):
            connection = http.client.HTTPConnection(s.address)
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()

        assert get("/healthz") == (200, "ok\n")
        time.sleep(0.5)
        status, body = get("/readyz")
        assert status == 200 and json.loads(body)["status"] == "ready"
        metrics = get("/metrics")[1]
        assert 'strongroom_hsm_up{group="default",token="0"} 1\n' in metrics
        assert re.search(r"(?m)^# TYPE strongroom_hsm_calls_total counter$", metrics)
        s.unplug()
        began = time.time()
        for _ in range(20):
            assert get("/healthz")[0] == get("/readyz")[0] == 200
        assert time.time() - began < 5
        s.plug_in()


main(globals())
