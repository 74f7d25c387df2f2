"""The local cloud: the AWS API of moto over real containers, images and a real registry.

The toolkit proper never knows that it is local; it reads standard boto3 configuration, and
:meth:`Cloud.environment` is that configuration, once what :func:`foreign` names is unset.
"""

from splitbake.local.cloud import down, status, up
from splitbake.local.state import Cloud, foreign

__all__ = ["Cloud", "down", "foreign", "status", "up"]
