package store

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/logging"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"tokenfork/internal/failure"
)

// s3Store keeps objects under a prefix of a bucket.
type s3Store struct {
	client         *s3.Client
	retry          *retryer
	bucket, prefix string
	o              Options
}

var _ Store = (*s3Store)(nil)

func openS3(ctx context.Context, bucket, prefix string, o Options) (*s3Store, error) {
	cfg, err := config.LoadDefaultConfig(ctx, config.WithLogger(logging.Nop{}))
	if err != nil {
		return nil, failure.New(failure.Other, "check ~/.aws/config and the AWS_ variables", "read the AWS configuration: %w", err)
	}
	s := &s3Store{bucket: bucket, prefix: prefix, o: o, retry: newRetryer(o)}
	s.client = s3.NewFromConfig(cfg, s.configure)
	if s.client.Options().Region == "" {
		return nil, failure.New(failure.Usage, "set AWS_REGION or the profile's region", "open %s: no AWS region is set", s)
	}
	return s, nil
}

func (s *s3Store) configure(so *s3.Options) {
	if s.o.S3Endpoint != "" {
		so.BaseEndpoint = aws.String(s.o.S3Endpoint)
	}
	if so.BaseEndpoint != nil { // servers other than AWS often refuse the newer checksums
		so.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
		so.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
		if so.Region == "" {
			so.Region = "us-east-1"
		}
	}
	so.UsePathStyle = s.o.S3PathStyle
	so.Retryer = s.retry
	so.APIOptions = append(so.APIOptions, startClock, leaveEncodingUnsigned, refuseWebPages)
	so.Logger = logging.Nop{} // the SDK would write to stderr
	so.Credentials = explainedCredentials{so.Credentials}
	if client, ok := so.HTTPClient.(*awshttp.BuildableClient); ok {
		so.HTTPClient = client.WithTransportOptions(func(t *http.Transport) { t.DialContext = watchStalls(t.DialContext, s.o.stall) })
	}
}

// leaveEncodingUnsigned keeps Accept-Encoding, which Google's and other servers' front
// ends rewrite, out of the signature.
func leaveEncodingUnsigned(stack *middleware.Stack) error {
	const header = "Accept-Encoding"
	var value string
	hide := middleware.FinalizeMiddlewareFunc("tokenforkHideEncoding",
		func(ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler) (middleware.FinalizeOutput, middleware.Metadata, error) {
			if r, ok := in.Request.(*smithyhttp.Request); ok {
				value = r.Header.Get(header)
				r.Header.Del(header)
			}
			return next.HandleFinalize(ctx, in)
		})
	show := middleware.FinalizeMiddlewareFunc("tokenforkShowEncoding",
		func(ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler) (middleware.FinalizeOutput, middleware.Metadata, error) {
			if r, ok := in.Request.(*smithyhttp.Request); ok && value != "" {
				r.Header.Set(header, value)
			}
			return next.HandleFinalize(ctx, in)
		})
	return errors.Join(stack.Finalize.Insert(hide, "Signing", middleware.Before), stack.Finalize.Insert(show, "Signing", middleware.After))
}

// explainedCredentials says what to do when the chain has no (more) credentials.
type explainedCredentials struct{ aws.CredentialsProvider }

func (c explainedCredentials) Retrieve(ctx context.Context) (aws.Credentials, error) {
	creds, err := c.CredentialsProvider.Retrieve(ctx)
	if err != nil {
		return creds, failure.New(failure.Stopped, "log in again or set AWS_PROFILE or AWS_ACCESS_KEY_ID and its fellows; what is done is kept",
			"no usable AWS credentials: %w", err)
	}
	return creds, nil
}

func (s *s3Store) String() string { return strings.TrimSuffix(s.place(""), "/") }

func (s *s3Store) place(key string) string { return "s3://" + s.bucket + "/" + s.full(key) }

func (s *s3Store) full(key string) string {
	if s.prefix == "" {
		return key
	}
	return s.prefix + "/" + key
}

func (s *s3Store) Open(ctx context.Context, key string) (io.ReadCloser, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	return s.open(ctx, key)
}

func (s *s3Store) List(ctx context.Context, prefix string) iter.Seq2[Object, error] {
	return sequence(func() ([]Object, error) { return s.list(ctx, prefix) })
}

// list gives the objects in order of key, which servers that walk through folders do not keep ("a/b"
// before "a.b").
func (s *s3Store) list(ctx context.Context, prefix string) ([]Object, error) {
	in, seen := &s3.ListObjectsV2Input{Bucket: &s.bucket, Prefix: aws.String(s.full(prefix))}, map[string]bool{}
	var objects []Object
	for {
		page, err := s.client.ListObjectsV2(ctx, in)
		if err != nil {
			return nil, s.explain(err, prefix)
		}
		for _, o := range page.Contents {
			full, err := s.listed(page, o, *in.Prefix)
			if err != nil {
				return nil, err
			}
			if seen[full] {
				return nil, s.badListing(fmt.Sprintf("%q comes twice", full))
			}
			seen[full] = true
			if key := strings.TrimPrefix(full, s.full("")); key != "" && !strings.HasSuffix(key, "/") { // what consoles make to show a folder
				objects = append(objects, Object{Key: key, Size: aws.ToInt64(o.Size), Modified: aws.ToTime(o.LastModified)})
			}
		}
		if !aws.ToBool(page.IsTruncated) {
			slices.SortFunc(objects, func(a, b Object) int { return cmp.Compare(a.Key, b.Key) })
			return objects, nil
		}
		if next := aws.ToString(page.NextContinuationToken); next == "" || next == aws.ToString(in.ContinuationToken) {
			return nil, s.badListing("it is cut, and the server names no way on")
		}
		in.ContinuationToken = page.NextContinuationToken
	}
}

// listed is the key of a listing's object, which must be of the prefix.
func (s *s3Store) listed(page *s3.ListObjectsV2Output, o types.Object, prefix string) (string, error) {
	key := aws.ToString(o.Key)
	if page.EncodingType == types.EncodingTypeUrl { // without being asked to
		decoded, err := url.QueryUnescape(key)
		if err != nil {
			return "", s.badListing(fmt.Sprintf("the key %q: %v", key, err))
		}
		key = decoded
	}
	if !strings.HasPrefix(key, prefix) {
		return "", s.badListing(fmt.Sprintf("%q was asked for and %q came", prefix, key))
	}
	return key, nil
}

func (s *s3Store) badListing(what string) error {
	return failure.New(failure.Refused, "use a server that lists as S3 does, or a folder", "the listing of %s cannot be used: %s", s, what)
}

func (s *s3Store) Remove(ctx context.Context, key string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	_, err := s.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &s.bucket, Key: aws.String(s.full(key))})
	return s.explain(err, key)
}

// unhide makes a 404 of the 403 for a key that is not there: S3 may answer so to
// who may list less than the whole bucket, and then its name is listed.
func (s *s3Store) unhide(ctx context.Context, full string, err error) error {
	if err == nil || lastAnswer(err).HTTPStatusCode() != http.StatusForbidden {
		return err
	}
	out, listErr := s.client.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: &s.bucket, Prefix: &full, MaxKeys: aws.Int32(1)})
	if listErr != nil || len(out.Contents) > 0 && aws.ToString(out.Contents[0].Key) == full {
		return err
	}
	return errors.Join(&types.NotFound{}, err)
}

// errCode is the code that the server answered with, or "".
func errCode(err error) string {
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		return api.ErrorCode()
	}
	return ""
}

// lastAnswer is the part of err that the server's last answer brought; its
// status is 0 where there was none.
func lastAnswer(err error) *smithyhttp.ResponseError {
	if r, ok := errors.AsType[*smithyhttp.ResponseError](err); ok && r.Response != nil && r.Response.Response != nil {
		return r
	}
	return &smithyhttp.ResponseError{Response: &smithyhttp.Response{Response: &http.Response{}}, Err: err}
}

// expired are the codes for credentials that were good once.
var expired = map[string]bool{"ExpiredToken": true, "ExpiredTokenException": true, "TokenRefreshRequired": true, "InvalidToken": true}

const startAgain = "start again once S3 answers; what is done is kept"

// explain puts an error of the SDK into the words of its user, with a way out.
func (s *s3Store) explain(err error, key string) error {
	if err == nil {
		return nil
	}
	action, code, answer := iamAction(err), errCode(err), lastAnswer(err)
	what := action + " on " + s.place(key)
	var gaveUp *gaveUpError
	var unsent *smithyhttp.RequestSendError
	var page *webPageError
	switch {
	case failure.Code(err) == failure.Stopped: // no credentials, whatever a node's own service for them answered
		return fmt.Errorf("%s: %w", what, err)
	case errors.As(err, &page), code == "NotFound" && action != "s3:GetObject":
		return failure.New(failure.Other, "check the endpoint's address and --s3-path-style; a proxy before it may answer in its place", "%s: no S3 server answers there: %w", what, err)
	case code == "NoSuchKey" || code == "NotFound":
		return fmt.Errorf("open %s: %w", s.place(key), fs.ErrNotExist)
	case code == "RequestTimeTooSkewed":
		return failure.New(failure.Other, "set this host's clock", "%s: host clock is %s off S3: %w", what, clockOffset(answer.Response.Header), err)
	case errors.As(err, &gaveUp):
		return failure.New(failure.Stopped, startAgain, "%s: %w; the last answer: %w", what, gaveUp, answer)
	case expired[code]:
		return failure.New(failure.Stopped, "refresh the credentials and start again; what is done is kept",
			"%s: AWS credentials expired (seen at %s): %w", what, time.Now().Format("15:04"), err)
	case code == "NoSuchBucket":
		return failure.New(failure.Other, "create it or correct the name", "%s: there is no bucket %s: %w", what, s.bucket, err)
	case answer.HTTPStatusCode() == http.StatusMovedPermanently || code == "AuthorizationHeaderMalformed" || code == "IllegalLocationConstraintException":
		return failure.New(failure.Usage, strings.TrimSpace("set AWS_REGION to the bucket's region "+answer.Response.Header.Get("X-Amz-Bucket-Region")), "%s: %w", what, err)
	case code == "InvalidAccessKeyId" || code == "SignatureDoesNotMatch":
		return failure.New(failure.Other, "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use other credentials", "%s is denied, the key is not accepted: %w", what, err)
	case strings.Contains(code, "Quota") || answer.HTTPStatusCode() == http.StatusInsufficientStorage:
		return failure.New(failure.Other, "make room in the bucket, or have its quota raised; what is done is kept", "%s: the bucket is full: %w", what, err)
	case answer.HTTPStatusCode() == http.StatusForbidden:
		return failure.New(failure.Other, "allow "+action+" there, or use other credentials", "%s is denied: %w", what, err)
	case action == "s3:PutObject" && unguarded(answer.HTTPStatusCode(), err):
		return failure.New(failure.Refused, singleWriterHint, "%s: %w: %w", what, ErrNoExclusive, err)
	case errors.As(err, new(*tls.CertificateVerificationError)):
		return failure.New(failure.Other, "name a file with the certificate of the server's authority in AWS_CA_BUNDLE", "%s: %w", what, err)
	case errors.As(err, &unsent):
		return failure.New(failure.Other, "check the endpoint's address and this host's network", "%s: %w", what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// unguarded says that a server does not create without overwriting: it knows no
// If-None-Match, or turns its meaning round (the key is not there, or it would have
// been an error of another kind).
func unguarded(status int, err error) bool {
	switch status {
	case http.StatusNotImplemented, http.StatusPreconditionFailed:
		return true
	case http.StatusBadRequest:
		return strings.Contains(strings.ToLower(err.Error()), "if-none-match")
	}
	return false
}

// clockOffset compares this host's clock with the Date of an answer.
func clockOffset(answer http.Header) string {
	date, err := http.ParseTime(answer.Get("Date"))
	if err != nil {
		return "too far"
	}
	return time.Since(date).Round(time.Second).String()
}

// iamActions are the rights that operations need where the names differ.
var iamActions = map[string]string{
	"HeadObject":              "s3:GetObject",
	"ListObjectsV2":           "s3:ListBucket",
	"CreateMultipartUpload":   "s3:PutObject",
	"UploadPart":              "s3:PutObject",
	"CompleteMultipartUpload": "s3:PutObject",
}

// iamAction is the right that the failed operation needs.
func iamAction(err error) string {
	var op *smithy.OperationError
	if !errors.As(err, &op) {
		return "s3"
	}
	return cmp.Or(iamActions[op.OperationName], "s3:"+op.OperationName)
}
