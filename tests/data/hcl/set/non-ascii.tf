# selects: aws_launch_template.gpu.image_id
resource "aws_launch_template" "gpu" {
  description = "모델 🚀" /* ümläut */
  /* 모델 */ image_id = "ami-0old" # here: 모델
}
