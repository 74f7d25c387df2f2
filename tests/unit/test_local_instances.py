"""Rules of the local cloud's instances that need no engine: all of a reservation or nothing, and who may end what."""

from __future__ import annotations

from types import SimpleNamespace

import docker
import pytest
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.instances import InstanceState

from splitbake.local.ec2 import Instances
from splitbake.local.machines import Machines


class Booked:
    """An instance as far as moto's books go."""

    def __init__(self, name):
        self.id, self.key_name, self.root_device_name = name, None, "/dev/xvda"
        self.block_device_mapping = {self.root_device_name: None}
        self.nics = [SimpleNamespace(private_ip_addresses=[{}])]
        self._state = InstanceState("running", 16)

    state = property(lambda self: self._state.name)

    def terminate(self):
        self._state = InstanceState("terminated", 48)


class Full:
    """Machines of which the first two start and the third does not."""

    def __init__(self):
        self.launched = []

    def launch(self, name, image, keys):
        if len(self.launched) == 2:
            raise docker.errors.APIError("no space left on device")
        self.launched.append(name)
        return "192.0.2.1"

    def wait_for_ssh(self, name, address):
        return True


def test_when_one_of_several_instances_cannot_start_none_stays():
    machines = Full()
    instances = Instances(machines, SimpleNamespace(image=lambda backend, ami: "image"))
    booked = [Booked(name) for name in "abc"]
    backend = SimpleNamespace(account_id="123456789012", region_name="us-east-1", reservations={}, key_pairs={})

    def run():
        return instances.run(lambda *_, **__: SimpleNamespace(instances=booked), backend, "ami", 3, client_token="once")

    with pytest.raises(EC2ClientError, match="no space left"):
        run()
    assert machines.launched == ["a", "b"]
    assert {one.state for one in booked} == {"terminated"}
    machines.launched.clear()
    with pytest.raises(EC2ClientError, match="no space left"):
        run()
    assert machines.launched == ["a", "b"], "the token does not stand for the broken reservation"


@pytest.mark.parametrize(("code", "fine"), [(404, True), (409, True), (500, False)])
def test_an_instance_that_somebody_else_removes_is_fine(code, fine):
    def remove(**_):
        kind = docker.errors.NotFound if code == 404 else docker.errors.APIError
        raise kind("removal is in progress", response=SimpleNamespace(status_code=code, reason="", url=""))

    client = SimpleNamespace(containers=SimpleNamespace(get=lambda name: SimpleNamespace(remove=remove)))
    machines = Machines("c1", "net", client)
    if fine:
        machines.remove("i-1")
    else:
        with pytest.raises(docker.errors.APIError):
            machines.remove("i-1")
