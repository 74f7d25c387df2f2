# selects: aws_launch_template.gpu.image_id
# refused: is a reference, local.amis[var.region]; an index in it is computed
resource "aws_launch_template" "gpu" {
  image_id = local.amis[var.region]
}
