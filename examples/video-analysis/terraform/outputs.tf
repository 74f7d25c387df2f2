output "job_queue" {
  description = "Where the Lambda function submits its jobs."
  value       = aws_batch_job_queue.gpu.name
}

output "job_definition" {
  description = "ARN with the revision."
  value       = aws_batch_job_definition.video_analysis.arn
}

output "launch_template" {
  description = "Launch template and the version in use."
  value = {
    id      = aws_launch_template.batch_gpu.id
    version = aws_launch_template.batch_gpu.latest_version
  }
}
