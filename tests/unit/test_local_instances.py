"""Rules of the local cloud's instances that need no engine: all of a reservation or nothing, and who may end what."""

from __future__ import annotations

from types import SimpleNamespace

import docker
import pytest
import requests
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.instances import InstanceState

from splitbake.local import launch_options
from splitbake.local.amis import Amis
from splitbake.local.disks import DiskError
from splitbake.local.ec2 import Instances
from splitbake.local.machines import Machines


class Booked:
    """An instance as far as moto's books go."""

    def __init__(self, name):
        self.id, self.key_name, self.root_device_name = name, None, "/dev/xvda"
        self.ec2_backend = None
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

    def mac_address(self, name):
        return "02:42:c0:00:02:01"


def instances_on(machines, equip=lambda *_: None):
    amis = SimpleNamespace(
        usable=lambda backend, ami: SimpleNamespace(id=ami, imds_support=None), image=lambda backend, ami: "image"
    )
    volumes = SimpleNamespace(plan=lambda *_: [], equip=equip, devices=lambda instance: {})
    instances = Instances(machines, amis, volumes)
    instances._metadata = SimpleNamespace(look=lambda *_: None)
    return instances


def test_when_one_of_several_instances_cannot_start_none_stays():
    machines = Full()
    instances = instances_on(machines)
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


def test_when_there_is_no_room_for_a_volume_no_instance_starts():
    def full(*_):
        raise DiskError("cp: error writing: No space left on device")

    machines, booked = Full(), [Booked("a")]
    backend = SimpleNamespace(account_id="123456789012", region_name="us-east-1", reservations={}, key_pairs={})
    with pytest.raises(EC2ClientError, match=r"cannot make the disk: cp: error writing: No space left") as problem:
        instances_on(machines, full).run(lambda *_, **__: SimpleNamespace(instances=booked), backend, "ami", 1)
    assert problem.value.code == "InsufficientVolumeCapacity"
    assert machines.launched == []
    assert booked[0].state == "terminated"


def test_only_a_running_instance_is_rebooted():
    machines, stopped = Full(), Booked("a")
    stopped._state = InstanceState("stopped", 80)
    instances = instances_on(machines)
    instances._amis.settle = lambda name: None
    with pytest.raises(EC2ClientError, match="is stopped and not running") as problem:
        instances.reboot(lambda: None, stopped)
    assert problem.value.code == "IncorrectState"


def test_an_instance_keeps_the_key_pair_that_it_was_launched_with():
    booked = Booked("a")
    booked.key_name = "login"
    pairs = {"login": "the pair"}
    backend = SimpleNamespace(account_id="123456789012", region_name="us-east-1", reservations={}, key_pairs=pairs)
    instances_on(Full()).run(lambda *_, **__: SimpleNamespace(instances=[booked]), backend, "ami", 1)
    pairs.clear()
    assert booked.key_pair == "the pair"


@pytest.mark.parametrize("problem", [requests.exceptions.ReadTimeout("timed out"), KeyError("unforeseen")])
def test_whatever_goes_wrong_an_ami_does_not_stay_pending(problem):
    def commit(*_):
        raise problem

    snapshot = SimpleNamespace(status="pending")
    ami = SimpleNamespace(id="ami-1", state="pending", data_volumes=(), snapshots=[snapshot], ebs_snapshot=snapshot)
    amis = Amis(SimpleNamespace(commit=commit), None)
    amis._workers["ami-1"] = ("i-1", None)
    amis._fill(ami, "i-1", {})
    assert (ami.state, ami.state_reason["Message"]) == ("failed", str(problem))
    assert snapshot.status == "error"
    assert amis._workers == {}


@pytest.mark.parametrize(("code", "fine"), [(404, True), (409, True), (500, False)])
def test_an_instance_that_somebody_else_removes_is_fine(code, fine):
    def remove(**_):
        kind = docker.errors.NotFound if code == 404 else docker.errors.APIError
        raise kind("removal is in progress", response=SimpleNamespace(status_code=code, reason="", url=""))

    client = SimpleNamespace(containers=SimpleNamespace(get=lambda name: SimpleNamespace(remove=remove)))
    machines = Machines("c1", "net", client, SimpleNamespace(forget=lambda name: None), "")
    if fine:
        machines.remove("i-1")
    else:
        with pytest.raises(docker.errors.APIError):
            machines.remove("i-1")


@pytest.mark.parametrize(
    ("given", "by_us"),
    [({"iam_instance_profile_name": "own"}, [("b", "own")]), ({}, [("a", "template's"), ("b", "template's")])],
)
def test_each_of_several_instances_gets_the_profile(given, by_us):
    seen = []

    def associate(instance_id, iam_instance_profile_name, iam_instance_profile_arn):
        seen.append((instance_id, iam_instance_profile_name))

    backend = SimpleNamespace(associate_iam_instance_profile=associate)
    instances = [SimpleNamespace(id=name, ec2_backend=backend) for name in "ab"]
    template = {"IamInstanceProfile": {"Name": "template's"}}
    launch_options.settle(instances, SimpleNamespace(imds_support=None), template, given)
    assert seen == by_us, "moto associates the first one, where RunInstances itself names the profile"


def test_what_run_instances_says_wins_over_the_template():
    template = {"MetadataOptions": {"HttpTokens": "optional"}, "InstanceInitiatedShutdownBehavior": "terminate"}
    assert launch_options.of_template(template, {"metadata_options": {"HttpTokens": "required"}}) == {
        "instance_initiated_shutdown_behavior": "terminate"
    }
