//go:build applied

package terraform_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// fakeAPI answers AWS's own program as an account would that this test cannot have.
func fakeAPI(t *testing.T, answers map[string]string) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		form, _ := url.ParseQuery(string(body))
		action := form.Get("Action")
		if target := r.Header.Get("X-Amz-Target"); target != "" {
			action = target[strings.LastIndex(target, ".")+1:]
			w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		}
		for key, answer := range answers {
			name, about, _ := strings.Cut(key, " ")
			if name == action && strings.Contains(string(body), about) {
				fmt.Fprint(w, answer)
				return
			}
		}
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprintf(w, `<Response><Errors><Error><Code>UnauthorizedOperation</Code><Message>%s is not allowed</Message></Error></Errors></Response>`, action)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func preflight(example string, env ...string) (string, error) {
	cmd := exec.Command("./preflight", example)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestPreflight has AWS's own program ask an account with a quota of none, in a region without AWS PCS.
func TestPreflight(t *testing.T) {
	set := func(name string, items ...string) string {
		return "<Response><" + name + "><item>" + strings.Join(items, "</item><item>") + "</item></" + name + "></Response>"
	}
	at := func(kind, zone string) string {
		return "<instanceType>" + kind + "</instanceType><location>" + zone + "</location>"
	}
	size := func(kind string, n int) string {
		return fmt.Sprintf("<instanceType>%s</instanceType><vCpuInfo><defaultVCpus>%d</defaultVCpus></vCpuInfo>", kind, n)
	}
	url := fakeAPI(t, map[string]string{
		"GetCallerIdentity":             "<GetCallerIdentityResponse><GetCallerIdentityResult><Account>123456789012</Account></GetCallerIdentityResult></GetCallerIdentityResponse>",
		"DescribeInstanceTypeOfferings": set("instanceTypeOfferingSet", at("p5.48xlarge", "us-east-2b"), at("m7i.2xlarge", "us-east-2a"), at("m7i.xlarge", "us-east-2a")),
		"DescribeInstanceTypes":         set("instanceTypeSet", size("p5.48xlarge", 192), size("m7i.2xlarge", 8), size("m7i.xlarge", 4)),
		"GetServiceQuota L-417A185B":    `{"Quota": {"Value": 0.0}}`, "GetServiceQuota L-1216C47A": `{"Quota": {"Value": 16.0}}`,
	})
	out, err := preflight("examples/p5.tfvars", "AWS_ENDPOINT_URL="+url, "AWS_ACCESS_KEY_ID=x", "AWS_SECRET_ACCESS_KEY=y", "AWS_MAX_ATTEMPTS=1", "AWS_EC2_METADATA_DISABLED=true")
	for _, want := range []string{
		"ok    account 123456789012, region us-east-2\n", "fail  AWS PCS does not answer in us-east-2\n", "ok    m7i.2xlarge is offered in us-east-2a\n",
		"fail  p5.48xlarge is not offered in us-east-2a\n      it is in: us-east-2b\n", "ok    quota L-1216C47A: 16 vCPUs, 12 needed",
		"fail  quota L-417A185B: 0 vCPUs, but all nodes together need 384\n",
		"aws service-quotas request-service-quota-increase --region us-east-2 --service-code ec2 --quota-code L-417A185B --desired-value 384",
	} {
		if err == nil || !strings.Contains(out, want) {
			t.Errorf("not said: %q; %v\n%s", want, err, out)
		}
	}
}

// fakeProgram stands for AWS's program, which takes seconds a call, where only its answers differ.
const fakeProgram = `#!/bin/bash
case "$*" in
*get-caller-identity*) echo 123456789012 ;;
*list-clusters*) ;;
*describe-instance-type-offerings*) printf '%s\t%s\n' m7i.2xlarge us-east-2b m7i.xlarge us-east-2b p5.48xlarge us-east-2b m7i.xlarge us-west-2a g6e.12xlarge us-west-2a g6e.12xlarge us-west-2b g6e.12xlarge us-west-2c ;;
*describe-instance-types*) printf '%s\t%s\n' m7i.2xlarge 8 m7i.xlarge 4 p5.48xlarge 192 g6e.12xlarge 48 ;;
*get-service-quota*) echo 1152.0 ;;
*describe-capacity-reservations*) [ -n "$RESERVATION" ] && printf '%s\t%s\t%s\t%s\n' $RESERVATION || { echo "UnauthorizedOperation" >&2; exit 254; } ;;
*) exit 254 ;;
esac
`

func TestPreflightOfReservations(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "aws"), []byte(fakeProgram), 0o755); err != nil {
		t.Fatal(err)
	}
	path := "PATH=" + dir + ":" + os.Getenv("PATH")
	for reservation, want := range map[string]string{
		"scheduled p5.48xlarge us-east-2b 8": "ok    cr-0123456789abcdef0: 8 p5.48xlarge in us-east-2b, scheduled",
		"active p5.48xlarge us-east-2b 4":    "fail  cr-0123456789abcdef0 holds 4 p5.48xlarge in us-east-2b and is active",
		"active p5.48xlarge us-east-2a 8":    "fail  cr-0123456789abcdef0 holds 8 p5.48xlarge in us-east-2a and is active",
		"active p4d.24xlarge us-east-2b 8":   "fail  cr-0123456789abcdef0 holds 8 p4d.24xlarge",
		"expired p5.48xlarge us-east-2b 8":   "and is expired",
		"":                                   "whoever applies needs ec2:DescribeCapacityReservations",
	} {
		out, err := preflight("examples/capacity-block.tfvars", path, "RESERVATION="+reservation)
		if (err == nil) != strings.HasPrefix(reservation, "scheduled") || !strings.Contains(out, want) {
			t.Errorf("%s: %v\n%s", reservation, err, out)
		}
	}
	out, err := preflight("examples/spot.tfvars", path)
	for _, want := range []string{"quota L-3819A6DF: 1152 vCPUs, 1152 needed", "fail  the account has no role for spot", "create-service-linked-role --aws-service-name spot.amazonaws.com"} {
		if err == nil || !strings.Contains(out, want) {
			t.Errorf("not said: %s; %v\n%s", want, err, out)
		}
	}
	if out, err := preflight("none.tfvars", path); err == nil || !strings.Contains(out, "usage: preflight FILE.tfvars") {
		t.Errorf("%v\n%s", err, out)
	}
}
