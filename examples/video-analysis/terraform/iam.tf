data "aws_iam_policy_document" "assume" {
  for_each = toset(["ec2", "ecs-tasks"])

  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["${each.key}.amazonaws.com"]
    }
  }
}

# --- the instances: join the ECS cluster of the compute environment, pull the image ---

resource "aws_iam_role" "instance" {
  name               = "${local.name}-instance"
  assume_role_policy = data.aws_iam_policy_document.assume["ec2"].json
}

resource "aws_iam_role_policy_attachment" "instance" {
  for_each = toset([
    "arn:aws:iam::aws:policy/service-role/AmazonEC2ContainerServiceforEC2Role",
    "arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore", # Session Manager instead of SSH
  ])

  role       = aws_iam_role.instance.name
  policy_arn = each.value
}

resource "aws_iam_instance_profile" "instance" {
  name = "${local.name}-instance"
  role = aws_iam_role.instance.name
}

# --- the job: reads videos, nothing else; the models are on the host ---

resource "aws_iam_role" "job" {
  name               = "${local.name}-job"
  assume_role_policy = data.aws_iam_policy_document.assume["ecs-tasks"].json
}

data "aws_iam_policy_document" "job" {
  statement {
    actions   = ["s3:GetObject"]
    resources = ["arn:aws:s3:::${var.videos_bucket}/*"]
  }
}

resource "aws_iam_role_policy" "job" {
  name   = "read-videos"
  role   = aws_iam_role.job.id
  policy = data.aws_iam_policy_document.job.json
}
