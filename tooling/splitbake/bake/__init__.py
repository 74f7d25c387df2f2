"""Making the halves: the AMI with Packer, the image with Docker; neither needs the other."""
