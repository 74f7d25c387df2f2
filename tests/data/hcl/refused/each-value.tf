# selects: aws_launch_template.gpu.image_id
# refused: is a reference, each.value.ami; it is neither
resource "aws_launch_template" "gpu" {
  for_each = local.gpus
  image_id = each.value.ami
}
