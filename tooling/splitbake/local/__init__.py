"""The local cloud: the AWS API of moto over real containers, images and a real registry.

The toolkit proper never knows that it is local; it reads standard boto3 configuration, and
:meth:`Cloud.environment` is that configuration.
"""

from splitbake.local.cloud import down, status, up
from splitbake.local.state import Cloud

__all__ = ["Cloud", "down", "status", "up"]
