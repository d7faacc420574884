# What the scheduler does, which no node can tell: why a job waits, and why a node did not start.

locals {
  log_types = {
    scheduler = "PCS_SCHEDULER_LOGS" # slurmctld, slurmdbd
    scaling   = "PCS_SCALING_LOGS"   # each start and end of a node, with its reason
    jobs      = "PCS_JOBCOMP_LOGS"   # each job that ended
  }
}

# CloudWatch lets AWS services write to log groups below /aws/vendedlogs/ without a policy of their own.
resource "aws_cloudwatch_log_group" "pcs" {
  #checkov:skip=CKV_AWS_158:the AWS key encrypts; a key of one's own protects nothing more here
  #checkov:skip=CKV_AWS_338:results and records of a run are in the bucket; these logs serve for days
  name              = "/aws/vendedlogs/pcs/${var.name}"
  retention_in_days = var.log_days
}

resource "aws_cloudwatch_log_delivery_source" "pcs" {
  for_each = local.log_types

  name         = "${var.name}-${each.key}"
  log_type     = each.value
  resource_arn = awscc_pcs_cluster.this.arn
}

# One for each: AWS refuses two deliveries to one destination that are made at the same time.
resource "aws_cloudwatch_log_delivery_destination" "pcs" {
  for_each = local.log_types

  name = "${var.name}-${each.key}"

  delivery_destination_configuration {
    destination_resource_arn = aws_cloudwatch_log_group.pcs.arn
  }
}

resource "aws_cloudwatch_log_delivery" "pcs" {
  for_each = local.log_types

  delivery_source_name     = aws_cloudwatch_log_delivery_source.pcs[each.key].name
  delivery_destination_arn = aws_cloudwatch_log_delivery_destination.pcs[each.key].arn
}
