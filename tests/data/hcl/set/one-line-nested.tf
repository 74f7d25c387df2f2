# selects: aws_launch_template.gpu.block_device_mappings[1].ebs[0].snapshot_id
resource "aws_launch_template" "gpu" {
  block_device_mappings {
    ebs { snapshot_id = "ami-0old" }
  }
  block_device_mappings {
    device_name = "/dev/xvdb"
    ebs { snapshot_id = "ami-0old" } # here
  }
}
