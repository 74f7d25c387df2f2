# selects: aws_launch_template.gpu.ebs
# refused: stands a block, not a value
resource "aws_launch_template" "gpu" {
  ebs { snapshot_id = "ami-0old" }
}
