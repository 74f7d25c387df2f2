resource "aws_security_group" "batch_gpu" {
  name        = "${local.name}-gpu"
  description = "Batch GPU instances: nothing comes in"
  vpc_id      = var.vpc_id

  egress {
    description = "ECR, S3, CloudWatch Logs"
    from_port   = 443
    to_port     = 443
    protocol    = "tcp"
    cidr_blocks = ["0.0.0.0/0"]
  }
}

resource "aws_launch_template" "batch_gpu" {
  name        = "capstone-batch-gpu"
  description = "GPU instances with the models under /opt/dl-models"

  # The model AMI. `splitbake release` writes this line.
  image_id = "ami-0123456789abcdef0" # base: ECS GPU-optimized Amazon Linux 2023

  update_default_version = true

  block_device_mappings {
    device_name = "/dev/xvda"

    ebs {
      volume_type           = "gp3"
      volume_size           = 100 # GiB
      throughput            = 500 # MiB/s: the first read of the models comes from S3
      iops                  = 3000
      encrypted             = true
      delete_on_termination = true
    }
  }

  metadata_options {
    http_tokens                 = "required"
    http_put_response_hop_limit = 1 # containers have their own role
  }

  monitoring {
    enabled = true
  }

  tag_specifications {
    resource_type = "instance"

    tags = merge(local.tags, {
      Name = "${local.name}-gpu"
    })
  }
}
