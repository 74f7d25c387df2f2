# selects: aws_launch_template.gpu.image_id
resource aws_launch_template gpu {
  image_id = "ami-0old" # here
}
