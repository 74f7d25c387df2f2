resource "aws_batch_compute_environment" "gpu" {
  compute_environment_name_prefix = "${local.name}-gpu-"
  type                            = "MANAGED"
  # No service_role: with the service-linked one Batch can change the AMI in place.

  compute_resources {
    type                = "EC2"
    allocation_strategy = "BEST_FIT_PROGRESSIVE" # BEST_FIT cannot be updated in place
    instance_type       = ["g5.xlarge"]
    instance_role       = aws_iam_instance_profile.instance.arn

    min_vcpus = 0 # an idle GPU costs $724 a month
    max_vcpus = var.max_vcpus

    subnets            = var.subnet_ids
    security_group_ids = [aws_security_group.batch_gpu.id]

    launch_template {
      launch_template_id = aws_launch_template.batch_gpu.id
      version            = aws_launch_template.batch_gpu.latest_version # a number, never $Latest
    }
  }

  update_policy {
    terminate_jobs_on_update      = false
    job_execution_timeout_minutes = 30
  }

  lifecycle {
    create_before_destroy = true
  }

  depends_on = [aws_iam_role_policy_attachment.instance]
}

resource "aws_batch_job_queue" "gpu" {
  name     = "${local.name}-gpu"
  state    = "ENABLED"
  priority = 10

  compute_environment_order {
    order               = 1
    compute_environment = aws_batch_compute_environment.gpu.arn
  }
}

resource "aws_cloudwatch_log_group" "job" {
  name              = "/aws/batch/${local.name}"
  retention_in_days = 30
}

resource "aws_batch_job_definition" "video_analysis" {
  name                  = local.name
  type                  = "container"
  platform_capabilities = ["EC2"]

  container_properties = jsonencode({
    # The code image. `splitbake release` writes this line.
    image = "123456789012.dkr.ecr.ap-northeast-2.amazonaws.com/capstone-dev-batch-processor:first"

    command    = ["python", "run.py"]
    jobRoleArn = aws_iam_role.job.arn

    resourceRequirements = [
      { type = "VCPU", value = "4" },
      { type = "MEMORY", value = "14000" }, # MiB; a g5.xlarge has 16 GiB, the agent needs its part
      { type = "GPU", value = "1" },
    ]

    # VIDEO_URL and SESSION_ID come with each job (container overrides of SubmitJob).
    environment = [
      { name = "MODELS_DIR", value = "/workspace/models" },
      { name = "CHECKPOINTS_DIR", value = "/workspace/checkpoints" },
      { name = "EXPERIMENTS_DIR", value = "/workspace/experiments" },
    ]

    # The models lie on the AMI; jobs read them where they are.
    volumes = [
      { name = "models", host = { sourcePath = "/opt/dl-models/models" } },
      { name = "checkpoints", host = { sourcePath = "/opt/dl-models/checkpoints" } },
      { name = "experiments", host = { sourcePath = "/opt/dl-models/experiments" } },
    ]
    mountPoints = [
      { sourceVolume = "models", containerPath = "/workspace/models", readOnly = true },
      { sourceVolume = "checkpoints", containerPath = "/workspace/checkpoints", readOnly = true },
      { sourceVolume = "experiments", containerPath = "/workspace/experiments", readOnly = true },
    ]

    logConfiguration = {
      logDriver = "awslogs"
      options   = { "awslogs-group" = aws_cloudwatch_log_group.job.name }
    }
  })

  retry_strategy {
    attempts = 3

    # 78 (EX_CONFIG): the image met a host without its models, for example during a release.
    evaluate_on_exit {
      action       = "RETRY"
      on_exit_code = "78"
    }

    # A host that was taken away is not the job's fault either.
    evaluate_on_exit {
      action           = "RETRY"
      on_status_reason = "Host EC2*"
    }

    evaluate_on_exit {
      action    = "EXIT"
      on_reason = "*"
    }
  }

  timeout {
    attempt_duration_seconds = 3600
  }
}
