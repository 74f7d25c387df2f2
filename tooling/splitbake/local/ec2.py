"""EC2 with containers as instances: what moto books, these hooks make real."""

from __future__ import annotations

import logging
from threading import Lock, Thread
from typing import Any

from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models import EC2Backend
from moto.ec2.models.instances import Instance, InstanceState, Reservation

from splitbake.local import launch_templates, retiring, sharing
from splitbake.local.amis import BASE_GIB, Amis
from splitbake.local.copies import Copies
from splitbake.local.hooks import Hook, around
from splitbake.local.machines import Machines
from splitbake.local.state import Cloud

log = logging.getLogger("splitbake.local.ec2")

#: What moto passes where a caller gave no ClientToken.
_NO_TOKEN = "ABCDE"  # noqa: S105


def install(cloud: Cloud, client: Any) -> Amis:
    """Hook EC2 and return its AMIs, which Batch needs as well."""
    machines = Machines(cloud.id, cloud.network, client)
    amis = Amis(machines, cloud.instance_image)
    amis.install()
    Copies(amis).install()
    sharing.install()
    retiring.install()
    launch_templates.install()
    Instances(machines, amis).install()
    return amis


class Instances:
    """The life of instances, from RunInstances to TerminateInstances."""

    def __init__(self, machines: Machines, amis: Amis) -> None:
        self._machines = machines
        self._amis = amis
        self._reservations: dict[tuple[str, str, str], tuple[str, Reservation]] = {}
        self._rebooting: set[str] = set()
        self._lock = Lock()

    def install(self) -> None:
        """Hook the instance calls."""
        around(EC2Backend, "run_instances", self.run)
        for name in ("describe_instances", "get_reservations_by_instance_ids", "describe_instance_status"):
            around(EC2Backend, name, self.describe)
        around(Instance, "setup_defaults", self.root_volume)
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
        with self._lock:
            if token != _NO_TOKEN and key in self._reservations:
                before, known = self._reservations[key]
                if before != asked:
                    raise EC2ClientError(
                        "IdempotentParameterMismatch", "The client token was used before with other parameters"
                    )
                return known
            image = self._amis.image(backend, image_id or _template_image(backend, options))
            reservation = _booked(proceed, backend, image_id, count, *args, **options)
            self._reservations[key] = (asked, reservation)
            for instance in reservation.instances:
                instance._state = InstanceState("pending", 0)
        try:
            for instance in reservation.instances:
                self._launch(backend, instance, image)
        except EC2ClientError:
            del self._reservations[key]
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
        address = self._machines.start(instance.id)
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
        previous: InstanceState = proceed()
        return previous

    def root_volume(self, proceed: Hook, instance: Any) -> None:
        """Give an instance the root volume of its AMI (moto: 8 GiB at a fixed device name)."""
        ami = sharing.find(instance.ec2_backend, instance.image_id)
        size = ami.ebs_snapshot.volume.size if ami else BASE_GIB
        instance.add_block_device(size, instance.root_device_name, None, False, True, None, "gp3")

    def _launch(self, backend: Any, instance: Any, image: str) -> None:
        import docker

        pair = backend.key_pairs.get(instance.key_name)
        keys = [pair.material_public.decode().strip()] if pair else []
        try:
            address = self._machines.launch(instance.id, image, keys)
        except docker.errors.DockerException as problem:
            log.exception("instance %s cannot be started", instance.id)
            reason = getattr(problem, "explanation", None) or problem
            raise EC2ClientError("InsufficientInstanceCapacity", f"Docker cannot start it: {reason}") from problem
        if instance.root_device_name not in instance.block_device_mapping:
            instance.setup_defaults()
        self._await_ssh(instance, address)

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


def _template_image(backend: Any, options: dict[str, Any]) -> str:
    """Return the AMI that the launch template of a RunInstances call names."""
    if not options.get("launch_template"):
        raise EC2ClientError("MissingParameter", "The request must contain the parameter ImageId")
    return str(backend._get_template_from_args(options["launch_template"]).image_id)
