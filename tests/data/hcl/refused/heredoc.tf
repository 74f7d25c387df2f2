# selects: aws_launch_template.gpu.image_id
# refused: is a heredoc, <<EOT
resource "aws_launch_template" "gpu" {
  image_id = <<EOT
ami-0old
EOT
}
