package store

import (
	"context"
	"strings"

	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// webPageError says that a web page came in place of S3's answer.
type webPageError struct{}

func (*webPageError) Error() string { return "a web page came in place of S3's answer" }

// refuseWebPages ends operations that a portal or proxy answers by a page as if all were well. The
// SDK would take it for an object or for an empty listing.
func refuseWebPages(stack *middleware.Stack) error {
	return stack.Deserialize.Add(middleware.DeserializeMiddlewareFunc("tokenforkWebPages",
		func(ctx context.Context, in middleware.DeserializeInput, next middleware.DeserializeHandler) (middleware.DeserializeOutput, middleware.Metadata, error) {
			out, metadata, err := next.HandleDeserialize(ctx, in)
			if r, ok := out.RawResponse.(*smithyhttp.Response); ok && err == nil && r.StatusCode < 300 && strings.HasPrefix(r.Header.Get("Content-Type"), "text/html") {
				err = &webPageError{}
			}
			return out, metadata, err
		}), middleware.After)
}
