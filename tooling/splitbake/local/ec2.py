"""EC2 with containers as instances: what moto books, these hooks make real."""

from __future__ import annotations

import logging
import secrets
from functools import partial
from threading import Lock, Thread
from typing import Any

from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models import EC2Backend
from moto.ec2.models.instances import Instance, InstanceState, Reservation
from moto.ec2.responses.instances import InstanceResponse
from moto.ec2.utils import convert_tag_spec

from splitbake.local import engine, launch_options, launch_templates, netns, retiring, sharing, tokens
from splitbake.local.amis import Amis
from splitbake.local.block_devices import overlaid
from splitbake.local.copies import Copies
from splitbake.local.disks import DiskError, Disks
from splitbake.local.hooks import Hook, around
from splitbake.local.inside import Inside
from splitbake.local.machines import Boot, Machines
from splitbake.local.metadata import InstanceMetadata
from splitbake.local.snapshots import Snapshots
from splitbake.local.state import Cloud
from splitbake.local.volumes import Planned, Volumes, no_room

log = logging.getLogger("splitbake.local.ec2")

#: What moto passes where a caller gave no ClientToken.
_NO_TOKEN = "ABCDE"  # noqa: S105


def install(cloud: Cloud, client: Any, disks: Disks) -> tuple[Amis, Volumes]:
    """Hook EC2 and return its AMIs and volumes, which Batch needs as well."""
    listen = partial(netns.listen, client=client, image=cloud.instance_image, labels=engine.labels(cloud.id))
    inside = Inside(listen, cloud.registry, engine.subnet(client, cloud))
    machines = Machines(cloud.id, cloud.network, client, inside, cloud.endpoint)
    snapshots = Snapshots(disks, machines, cloud.instance_image)
    snapshots.install()
    volumes = Volumes(disks)
    volumes.install()
    amis = Amis(machines, snapshots)
    amis.install()
    Copies(amis, snapshots).install()
    sharing.install()
    retiring.install()
    launch_templates.install()
    launch_options.install()
    Instances(machines, amis, volumes).install()
    tokens.install()
    return amis, volumes


class Instances:
    """The life of instances, from RunInstances to TerminateInstances."""

    def __init__(self, machines: Machines, amis: Amis, volumes: Volumes) -> None:
        self._machines = machines
        self._amis = amis
        self._volumes = volumes
        self._metadata = InstanceMetadata()
        self._reservations: dict[tuple[str, str, str], tuple[str, Reservation]] = {}
        self._rebooting: set[str] = set()
        self._devices: dict[str, dict[str, str]] = {}
        self._rebuilt: dict[str, str] = {}
        self._lock = Lock()

    def install(self) -> None:
        """Hook the instance calls."""
        around(EC2Backend, "run_instances", self.run)
        around(InstanceResponse, "_parse_block_device_mapping", _block_devices)
        for name in ("describe_instances", "get_reservations_by_instance_ids", "describe_instance_status"):
            around(EC2Backend, name, self.describe)
        around(Instance, "start", self.start)
        around(Instance, "stop", self.stop)
        around(Instance, "reboot", self.reboot)
        around(Instance, "terminate", self.terminate)

    def run(self, proceed: Hook, backend: Any, image_id: str, count: int, *args: Any, **options: Any) -> Reservation:
        """RunInstances: idempotent by ClientToken; instances are ``pending`` until sshd answers.

        The same token with other parameters is ``IdempotentParameterMismatch``, as on AWS. All instances are started
        or none.
        """
        token = options.get("client_token") or _NO_TOKEN
        key = (backend.account_id, backend.region_name, token)
        asked = repr((image_id, count, args, options))
        template, wanted = _template(backend, options), options.pop("block_device_mappings", None) or []
        with self._lock:
            if token != _NO_TOKEN and key in self._reservations:
                before, known = self._reservations[key]
                if before != asked:
                    raise tokens.mismatch()
                return known
            ami = self._amis.usable(backend, image_id or _image_of(template))
            image = self._amis.image(backend, ami.id)
            volumes = self._volumes.plan(backend, ami, overlaid(template.get("BlockDeviceMappings", []), wanted))
            options |= launch_options.of_template(template, options)
            reservation = _booked(proceed, backend, image_id, count, *args, block_device_mappings=[], **options)
            self._reservations[key] = (asked, reservation)
            instance: Any
            for instance in reservation.instances:
                instance._state = InstanceState("pending", 0)
                instance.key_pair = backend.key_pairs.get(instance.key_name)  # it may be deleted meanwhile
        tags = convert_tag_spec(template.get("TagSpecifications", [])).get("volume", {})
        tags |= options.get("tags", {}).get("volume", {})
        try:
            launch_options.settle(reservation.instances, ami, template, options)
            for instance in reservation.instances:
                self._volumes_of(instance, volumes, tags)
                self._await_ssh(instance, self._booted(instance, image))
        except BaseException:
            self._reservations.pop(key, None)
            for instance in reservation.instances:
                instance.terminate()
            raise
        return reservation

    def describe(self, proceed: Hook, backend: Any, *args: Any, **options: Any) -> Any:
        """Look first which instances died or were shut down from inside."""
        running = [one for one in backend.all_instances() if self._should_run(one)]
        alive = self._machines.states() if running else {}
        for instance in running:
            if alive.get(instance.id) or not self._should_run(instance):  # another call may end it meanwhile
                continue
            log.warning("instance %s has ended by itself", instance.id)
            if instance.id not in alive or instance.instance_initiated_shutdown_behavior == "terminate":
                instance.terminate()
            else:
                instance.stop()
        return proceed(*args, **options)

    def start(self, proceed: Hook, instance: Any) -> InstanceState:
        """StartInstances: the same file system boots again, at an address that Docker chooses anew."""
        self._settle(instance)
        address = self._started(instance)
        previous: InstanceState = proceed()
        self._await_ssh(instance, address)
        return previous

    def stop(self, proceed: Hook, instance: Any) -> InstanceState:
        """StopInstances: an orderly shutdown."""
        self._settle(instance)
        instance._state.name, instance._state.code = "stopping", 64
        self._machines.stop(instance.id)
        previous: InstanceState = proceed()
        return previous

    def reboot(self, proceed: Hook, instance: Any) -> None:
        """RebootInstances: its container is down for a moment, which is not an end."""
        self._settle(instance)
        if instance.state not in ("pending", "running"):
            raise EC2ClientError("IncorrectState", f"The instance {instance.id} is {instance.state} and not running")
        self._rebooting.add(instance.id)
        try:
            address = self._machines.restart(instance.id)
        finally:
            self._rebooting.discard(instance.id)
        proceed()
        self._await_ssh(instance, address)

    def terminate(self, proceed: Hook, instance: Any) -> InstanceState:
        """TerminateInstances: nothing of the container stays."""
        self._amis.settle(instance.id)
        instance._state.name, instance._state.code = "shutting-down", 32
        self._machines.remove(instance.id)
        if image := self._rebuilt.pop(instance.id, None):
            self._machines.forget(image)
        previous: InstanceState = proceed()
        return previous

    def _volumes_of(self, instance: Any, planned: list[Planned], tags: dict[str, str]) -> None:
        try:
            self._volumes.equip(instance, planned, tags)
            self._devices[instance.id] = self._volumes.devices(instance)
        except DiskError as problem:
            raise no_room(problem) from problem

    def _started(self, instance: Any) -> str:
        """Boot a stopped instance and return its address.

        Docker cannot change the devices of a container: where volumes came or went, a new one gets its file system.
        """
        try:
            devices = self._volumes.devices(instance)
        except DiskError as problem:
            raise no_room(problem) from problem
        if devices == self._devices[instance.id]:
            return self._machines.start(instance.id)
        before = self._rebuilt.get(instance.id)
        image, _ = self._machines.commit(instance.id, f"{instance.id}-{secrets.token_hex(4)}")
        self._machines.remove(instance.id)
        self._rebuilt[instance.id], self._devices[instance.id] = image, devices
        address = self._booted(instance, image)
        if before:
            self._machines.forget(before)
        return address

    def _booted(self, instance: Any, image: str) -> str:
        """Boot an instance from an image and return its address."""
        import docker

        look = self._metadata.look(instance.ec2_backend, instance)
        try:
            return self._machines.launch(instance.id, image, Boot(metadata=look, devices=self._devices[instance.id]))
        except (docker.errors.DockerException, OSError) as problem:
            log.exception("instance %s cannot be started", instance.id)
            reason = getattr(problem, "explanation", None) or problem
            raise EC2ClientError("InsufficientInstanceCapacity", f"Docker cannot start it: {reason}") from problem

    def _should_run(self, instance: Any) -> bool:
        return instance.state == "running" and instance.id not in self._rebooting

    def _settle(self, instance: Any) -> None:
        """Wait for images that are being made of an instance; refuse what a terminated one cannot do."""
        self._amis.settle(instance.id)
        if instance.state == "terminated":
            raise EC2ClientError("IncorrectInstanceState", f"The instance {instance.id} is terminated")

    def _await_ssh(self, instance: Any, address: str) -> None:
        """Book ``address``, and let the instance be ``running`` as soon as sshd answers there."""
        interface = instance.nics[0]
        interface.public_ip = interface.private_ip_address = address
        interface.mac_address = self._machines.mac_address(instance.id)
        interface.private_ip_addresses[0]["PrivateIpAddress"] = address
        state = instance._state = InstanceState("pending", 0)

        def wait() -> None:
            if not self._machines.wait_for_ssh(instance.id, address):
                log.warning("sshd of instance %s does not answer at %s", instance.id, address)
            if state.name == "pending":
                state.name, state.code = "running", 16

        Thread(target=wait, name=instance.id, daemon=True).start()


def _booked(proceed: Hook, backend: Any, *args: Any, **options: Any) -> Reservation:
    """Let moto book a reservation, all of it or nothing: when it refuses, half a reservation would stay behind."""
    before = set(backend.reservations)
    try:
        reservation: Reservation = proceed(*args, **options)
    except EC2ClientError:
        for reservation_id in set(backend.reservations) - before:
            del backend.reservations[reservation_id]
        raise
    return reservation


def _template(backend: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Return the data of the launch template that a RunInstances call names; empty where it names none."""
    named = options.get("launch_template")
    return dict(backend._get_template_from_args(named).data) if named else {}


def _image_of(template: dict[str, Any]) -> str:
    if "ImageId" not in template:
        raise EC2ClientError("MissingParameter", "The request must contain the parameter ImageId")
    return str(template["ImageId"])


def _block_devices(proceed: Hook, response: Any) -> list[dict[str, Any]]:
    """Return the block device mappings of a call as they are (moto: members that were left out become false)."""
    return list(response._get_param("BlockDeviceMappings", []))
