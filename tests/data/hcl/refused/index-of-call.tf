# selects: aws_launch_template.gpu.image_id
# refused: is a function call, jsondecode(
resource "aws_launch_template" "gpu" {
  image_id = jsondecode(data.http.x.body)["id"]
}
