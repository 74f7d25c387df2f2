# Made by splitbake generate from splitbake.yaml and splitbake.lock: change those, not this file.
# packer-compat: 1.6

variable "run" {
  type        = string
  description = "names this bake and everything temporary of it"
  default     = "manual"
}

variable "fingerprint" {
  type        = string
  description = "digest of everything that the AMI is made from"
  default     = "unset"
}

variable "inputs" {
  type        = string
  description = "folder with models.tsv, ami.json, contract and the model files to upload"
  default     = "inputs"
}

variable "record" {
  type        = string
  description = "where Packer writes down what it made"
  default     = "packer-manifest.json"
}

variable "ec2_endpoint" {
  type        = string
  description = "another EC2 than AWS's own"
  default     = ""
}

variable "key_pair" {
  type        = string
  description = "name of an existing key pair; Packer makes one where this is empty"
  default     = ""
}

variable "private_key" {
  type        = string
  description = "file with the private key of key_pair"
  default     = ""
}

variable "security_group" {
  type        = string
  description = "id of an existing security group; Packer makes one where this is empty"
  default     = ""
}

variable "profile" {
  type        = string
  description = "name of the instance profile of the builder"
  default     = ""
}

locals {
  name = "video-analysis-${substr(replace(var.fingerprint, "sha256:", ""), 0, 12)}-${var.run}"
  tags = {
    Name                    = local.name
    "splitbake:project"     = "video-analysis"
    "splitbake:run"         = var.run
    "splitbake:fingerprint" = var.fingerprint
    "splitbake:contract"    = "1"
  }
}

source "amazon-ebs" "ami" {
  region               = "us-east-1"
  source_ami           = "ami-0ca77a28d8801702a"
  ami_name             = local.name
  ami_description      = "video-analysis: models on ami-0ca77a28d8801702a"
  instance_type        = "m6i.xlarge"
  ssh_interface        = "public_ip"
  ssh_username         = "ec2-user"
  ssh_timeout          = "15m"
  ssh_keypair_name     = var.key_pair
  ssh_private_key_file = var.private_key
  security_group_id    = var.security_group
  iam_instance_profile = var.profile
  custom_endpoint_ec2  = var.ec2_endpoint
  shutdown_behavior    = "terminate"
  run_tags             = local.tags
  run_volume_tags      = local.tags
  tags                 = local.tags
  snapshot_tags        = local.tags

  launch_block_device_mappings {
    device_name           = "/dev/xvda"
    volume_type           = "gp3"
    volume_size           = 30
    iops                  = 3000
    throughput            = 250
    delete_on_termination = true
  }

  launch_block_device_mappings {
    device_name           = "/dev/sdf"
    volume_type           = "gp3"
    volume_size           = 1
    iops                  = 3000
    throughput            = 250
    delete_on_termination = true
  }

  aws_polling {
    delay_seconds = 2
    max_attempts  = 1830
  }
}

build {
  name    = "video-analysis"
  sources = ["source.amazon-ebs.ami"]

  provisioner "shell" {
    script          = "${path.root}/scripts/10-settle.sh"
    execute_command = "sudo env {{ .Vars }} sh {{ .Path }}"
  }

  # The list of models holds presigned URLs: it is not in this text, and gone after 30-models.sh.
  provisioner "file" {
    source      = "${var.inputs}/"
    destination = "/var/tmp/splitbake"
    generated   = true
  }

  provisioner "shell" {
    script          = "${path.root}/scripts/20-volumes.sh"
    execute_command = "sudo env {{ .Vars }} sh {{ .Path }}"
  }

  provisioner "shell" {
    script          = "${path.root}/scripts/30-models.sh"
    execute_command = "sudo env {{ .Vars }} sh {{ .Path }}"
  }

  provisioner "shell" {
    script          = "${path.root}/scripts/50-preload.sh"
    execute_command = "sudo env {{ .Vars }} sh {{ .Path }}"
  }

  provisioner "shell" {
    script          = "${path.root}/scripts/60-host.sh"
    execute_command = "sudo env {{ .Vars }} sh {{ .Path }}"
  }

  # Checks the builder before there is any AMI; splitbake build says by its environment how.
  provisioner "shell-local" {
    script           = "${path.root}/scripts/80-gate.sh"
    environment_vars = ["SPLITBAKE_GATE_HOST=${build.Host}", "SPLITBAKE_GATE_PORT=${build.Port}", "SPLITBAKE_GATE_USER=${build.User}"]
    execute_command  = ["sh", "-c", "{{ .Vars }} sh \"$0\"", "{{ .Script }}"]
  }

  provisioner "shell" {
    script          = "${path.root}/scripts/90-cleanup.sh"
    execute_command = "sudo env {{ .Vars }} sh {{ .Path }}"
    skip_clean      = true
  }

  post-processor "manifest" {
    output = var.record
  }
}
