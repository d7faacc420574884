package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	figures "tokenfork/judge/report"
)

// viewCmd serves the texts to a browser.
type viewCmd struct {
	jobFlags `embed:"" group:"Job and store"`
}

// Help shows how it is used.
func (viewCmd) Help() string {
	return `It listens on this host alone, at an address that only its output has, until it is interrupted.

Example:
  tokenfork view --job ./job
`
}

// Run is the command. It ends when it is interrupted.
func (c *viewCmd) Run(ctx context.Context, con *console) (err error) {
	s, err := c.open(ctx, con.logger())
	if err != nil {
		return err
	}
	token := rand.Text()
	v, err := figures.NewView(ctx, figures.Options{Store: s, TempDir: c.Tmp, Console: con.err}, token)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, v.Close()) }()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen on this host: %w", err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	fmt.Fprintf(con.out, "http://127.0.0.1:%d/%s/\n", port, token)
	fmt.Fprintf(con.err, "Ctrl-C ends it. From another machine: ssh -N -L %d:127.0.0.1:%d THIS_HOST, then open the same address there.\n", port, port)
	server := &http.Server{Handler: v, ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the texts: %w", err)
	}
	return nil
}
