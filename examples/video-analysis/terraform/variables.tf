variable "region" {
  description = "Where the pipeline runs."
  type        = string
  default     = "ap-northeast-2"
}

variable "environment" {
  description = "Part of every name: dev or prod."
  type        = string
  default     = "dev"

  validation {
    condition     = contains(["dev", "prod"], var.environment)
    error_message = "The environment is dev or prod."
  }
}

variable "vpc_id" {
  description = "VPC of the Batch instances."
  type        = string
}

variable "subnet_ids" {
  description = "Private subnets of the Batch instances, with a way to ECR, S3 and CloudWatch Logs."
  type        = list(string)
}

variable "max_vcpus" {
  description = "Most vCPUs at a time; a g5.xlarge has 4."
  type        = number
  default     = 16
}

variable "videos_bucket" {
  description = "Bucket of the uploaded videos."
  type        = string
  default     = "capstone-videos-dev"
}

locals {
  name = "capstone-${var.environment}-video-analysis"

  tags = {
    Project     = "video-analysis"
    Environment = var.environment
    ManagedBy   = "terraform"
  }
}
