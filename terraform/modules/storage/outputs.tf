output "bucket" {
  description = "Name of the bucket."
  value       = aws_s3_bucket.this.id
}

output "bucket_arn" {
  description = "ARN of the bucket."
  value       = local.bucket_arn
}

output "jobs_url" {
  description = "Jobs live below this URL."
  value       = "s3://${aws_s3_bucket.this.id}/${var.jobs_prefix}"
}

output "writer_policy_arn" {
  description = "IAM policy for tasks and for whoever plans, submits and merges."
  value       = aws_iam_policy.writer.arn
}

output "reader_policy_arn" {
  description = "IAM policy for readers of results, and for nodes that fetch tables, models and software."
  value       = aws_iam_policy.reader.arn
}
