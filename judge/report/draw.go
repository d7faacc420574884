package report

import (
	"bytes"
	"fmt"
	"image/color"
	"io"
	"math"
	"strconv"
	"time"

	"codeberg.org/go-pdf/fpdf"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgpdf"
	"gonum.org/v1/plot/vg/vgsvg"

	"tokenfork/internal/stats"
)

// Sizes of a figure: a column of a two-column paper, or its whole width.
const (
	columnWidth  = 3.35 * vg.Inch
	pageWidth    = 6.9 * vg.Inch
	figureHeight = 2.3 * vg.Inch
	pngDPI       = 300
)

// The colours of Okabe and Ito, which people with any colour vision can tell
// apart; line and marker differ as well.
var (
	black      = color.RGBA{A: 255}
	grey       = color.RGBA{R: 110, G: 110, B: 110, A: 255}
	blue       = color.RGBA{R: 0, G: 114, B: 178, A: 255}
	vermillion = color.RGBA{R: 213, G: 94, B: 0, A: 255}
	green      = color.RGBA{R: 0, G: 158, B: 115, A: 255}
)

// look is how a series is drawn.
type look struct {
	color  color.Color
	glyph  draw.GlyphDrawer // nil: none
	dashes []vg.Length
	bare   bool // no line between the points
}

var (
	dashed = []vg.Length{4, 2}
	dotted = []vg.Length{1, 1.6}

	variantLooks = []look{
		{color: black, glyph: draw.CircleGlyph{}},
		{color: vermillion, glyph: draw.BoxGlyph{}, dashes: dashed},
		{color: blue, glyph: draw.PyramidGlyph{}, dashes: dotted},
		{color: green, glyph: draw.CrossGlyph{}, dashes: []vg.Length{4, 2, 1, 2}},
	}
	sideLooks    = [2]look{{color: blue, glyph: draw.CircleGlyph{}}, {color: vermillion, glyph: draw.BoxGlyph{}, dashes: dashed}}
	measureLooks = [6]look{
		{color: blue}, {color: vermillion}, {color: green},
		{color: blue, dashes: dashed}, {color: vermillion, dashes: dashed}, {color: green, dashes: dashed},
	}
)

func textFont(size vg.Length) font.Font {
	return font.From(font.Font{Typeface: "Liberation", Variant: "Sans"}, size)
}

const (
	labelSize = 7.5
	tickSize  = 6.5
)

// mark is a point of a series, with a bar if its interval is known.
type mark struct {
	x float64
	stats.Estimate
}

// series is a row of marks, drawn as a line with markers and bars.
type series struct {
	name     string
	marks    []mark
	sideways bool // values go to the right, x upwards
	look
}

func (s *series) at(c draw.Canvas, p *plot.Plot, x, y float64) vg.Point {
	if s.sideways {
		x, y = y, x
	}
	tx, ty := p.Transforms(&c)
	return vg.Point{X: tx(x), Y: ty(y)}
}

// Plot makes series a plot.Plotter.
func (s *series) Plot(c draw.Canvas, p *plot.Plot) {
	bar := draw.LineStyle{Color: s.color, Width: 0.6}
	var line []vg.Point
	for _, m := range s.marks {
		if math.IsNaN(m.Value) {
			continue
		}
		line = append(line, s.at(c, p, m.x, m.Value))
		if !math.IsNaN(m.Low) {
			c.StrokeLine2(bar, s.at(c, p, m.x, m.Low).X, s.at(c, p, m.x, m.Low).Y, s.at(c, p, m.x, m.High).X, s.at(c, p, m.x, m.High).Y)
		}
	}
	if !s.bare {
		c.StrokeLines(s.line(), c.ClipLinesXY(line)...)
	}
	if s.glyph != nil {
		for _, at := range line {
			c.DrawGlyphNoClip(s.glyphStyle(), at)
		}
	}
}

func (s *series) line() draw.LineStyle {
	return draw.LineStyle{Color: s.color, Width: 1, Dashes: s.dashes}
}

func (s *series) glyphStyle() draw.GlyphStyle {
	return draw.GlyphStyle{Color: s.color, Radius: 1.9, Shape: s.glyph}
}

// DataRange makes series a plot.DataRanger.
func (s *series) DataRange() (xmin, xmax, ymin, ymax float64) {
	xmin, xmax, ymin, ymax = math.Inf(1), math.Inf(-1), math.Inf(1), math.Inf(-1)
	for _, m := range s.marks {
		xmin, xmax = min(xmin, m.x), max(xmax, m.x)
		for _, v := range [3]float64{m.Value, m.Low, m.High} {
			if !math.IsNaN(v) {
				ymin, ymax = min(ymin, v), max(ymax, v)
			}
		}
	}
	if s.sideways {
		return ymin, ymax, xmin, xmax
	}
	return xmin, xmax, ymin, ymax
}

// Thumbnail makes series a plot.Thumbnailer.
func (s *series) Thumbnail(c *draw.Canvas) {
	y := c.Center().Y
	if !s.bare {
		c.StrokeLine2(s.line(), c.Min.X, y, c.Max.X, y)
	}
	if s.glyph != nil {
		c.DrawGlyph(s.glyphStyle(), c.Center())
	}
}

// panel is one pair of axes.
type panel struct {
	title, x, y string
	series      []*series
	names       []string    // of the y axis's places 0, 1, …, for sideways series
	xRange      *[2]float64 // nil: from the data
	yRange      *[2]float64 // nil: from 0 to what the data needs
	rule        *float64    // a line across the values, such as what chance gives
}

// sameValues gives panels side by side the same axis of values, so that they compare.
func (f *picture) sameValues() {
	top := 0.0
	for i := range f.panels {
		for _, s := range f.panels[i].series {
			_, _, _, high := s.DataRange()
			top = max(top, high)
		}
	}
	for i := range f.panels {
		f.panels[i].yRange = &[2]float64{0, max(1.05*top, 1e-9)}
	}
}

func (f *panel) plot() *plot.Plot {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = f.title, f.x, f.y
	p.Title.TextStyle.Font = textFont(labelSize)
	p.Title.Padding = 3
	for _, a := range []*plot.Axis{&p.X, &p.Y} {
		a.Label.TextStyle.Font, a.Tick.Label.Font = textFont(labelSize), textFont(tickSize)
		a.LineStyle.Width, a.Tick.LineStyle.Width, a.Tick.Length = 0.5, 0.5, 3
		a.Padding = 3
		a.Tick.Marker = evenTicks{}
		a.Label.Padding = 2
	}
	for _, s := range f.series {
		p.Add(s)
	}
	f.scale(p)
	return p
}

// evenTicks are about five labelled ones, at multiples of 1, 2 or 5, and no others.
type evenTicks struct{}

// Ticks makes evenTicks a plot.Ticker.
func (evenTicks) Ticks(from, to float64) []plot.Tick {
	step := math.Pow(10, math.Floor(math.Log10((to-from)/5)))
	for _, by := range []float64{2, 2.5, 2} {
		if (to-from)/step > 6 {
			step *= by
		}
	}
	decimals := max(0, -int(math.Floor(math.Log10(step)+1e-9)))
	var ticks []plot.Tick
	for k := math.Ceil(from/step - 1e-9); k*step <= to+1e-9*step; k++ {
		ticks = append(ticks, plot.Tick{Value: k * step, Label: strconv.FormatFloat(k*step+0, 'f', decimals, 64)})
	}
	return ticks
}

func (f *panel) scale(p *plot.Plot) {
	values := &p.Y
	if f.names != nil {
		values = &p.X
		ticks := make(plot.ConstantTicks, len(f.names))
		for i, name := range f.names {
			ticks[i] = plot.Tick{Value: float64(i), Label: name}
		}
		p.Y.Tick.Marker = ticks
		p.Y.Min, p.Y.Max = -0.4, float64(len(f.names))-0.6
		p.Y.Tick.Length = 0
	}
	if top := values.Max; !math.IsInf(top, 0) {
		values.Min, values.Max = 0, max(top*1.05, 1e-9)
	}
	for axis, r := range map[*plot.Axis]*[2]float64{&p.X: f.xRange, &p.Y: f.yRange} {
		if r != nil {
			axis.Min, axis.Max = r[0], r[1]
		}
	}
	if f.rule != nil {
		p.Add(&rule{*f.rule, f.names != nil})
	}
}

// rule is a thin grey line at a value.
type rule struct {
	value   float64
	upright bool
}

// Plot makes rule a plot.Plotter.
func (r *rule) Plot(c draw.Canvas, p *plot.Plot) {
	tx, ty := p.Transforms(&c)
	style := draw.LineStyle{Color: grey, Width: 0.5, Dashes: dotted}
	if r.upright {
		c.StrokeLine2(style, tx(r.value), c.Min.Y, tx(r.value), c.Max.Y)
		return
	}
	c.StrokeLine2(style, c.Min.X, ty(r.value), c.Max.X, ty(r.value))
}

// picture is panels side by side under one legend.
type picture struct {
	panels        []panel
	width, height vg.Length
}

const thumbnail = 16

const legendHeight = 11

func legendStyle() draw.TextStyle {
	return draw.TextStyle{Font: textFont(labelSize), Handler: plot.DefaultTextHandler, Color: black, YAlign: draw.YCenter}
}

// entry is a series' place in the legend, from its left edge and in its row.
type entry struct {
	series *series
	x      vg.Length
	row    int
}

// legend lays out the names of the first panel's series: in a row if they fit, else in columns.
func (f *picture) legend() (entries []entry, width vg.Length, rows int) {
	const gap = 9
	style, widest := legendStyle(), vg.Length(0)
	for _, s := range f.panels[0].series {
		if s.name != "" {
			w := thumbnail + 3 + style.Width(s.name) + gap
			entries = append(entries, entry{series: s, x: width})
			width, widest = width+w, max(widest, w)
		}
	}
	if len(entries) == 0 || width-gap <= f.width {
		return entries, width - gap, min(len(entries), 1)
	}
	columns := max(1, int((f.width+gap)/widest))
	for i := range entries {
		entries[i].x, entries[i].row = widest*vg.Length(i%columns), i/columns
	}
	return entries, widest*vg.Length(columns) - gap, (len(entries) + columns - 1) / columns
}

// drawLegend draws it at the top and leaves the rest of the canvas.
func (f *picture) drawLegend(c draw.Canvas) draw.Canvas {
	entries, width, rows := f.legend()
	left := c.Min.X + max(0, (c.Max.X-c.Min.X-width)/2)
	for _, e := range entries {
		x, y := left+e.x, c.Max.Y-legendHeight*(vg.Length(e.row)+0.5)
		e.series.Thumbnail(&draw.Canvas{Canvas: c.Canvas, Rectangle: vg.Rectangle{
			Min: vg.Point{X: x, Y: y - legendHeight/2}, Max: vg.Point{X: x + thumbnail, Y: y + legendHeight/2}}})
		c.FillText(legendStyle(), vg.Point{X: x + thumbnail + 3, Y: y}, e.series.name)
	}
	if rows == 0 {
		return c
	}
	return draw.Crop(c, 0, 0, 0, -legendHeight*vg.Length(rows)-3)
}

func (f *picture) draw(canvas vg.CanvasSizer) {
	c := draw.New(canvas)
	c.SetColor(color.White)
	c.Fill(c.Rectangle.Path())
	c = draw.Crop(c, 3, -6, 3, -3)
	c = f.drawLegend(c)
	plots := [][]*plot.Plot{nil}
	for i := range f.panels {
		plots[0] = append(plots[0], f.panels[i].plot())
	}
	tiles := draw.Tiles{Rows: 1, Cols: len(f.panels), PadX: 10}
	for i, at := range plot.Align(plots, tiles, c)[0] {
		plots[0][i].Draw(at)
	}
}

// The same results give the same PDF, byte for byte: no date but this one in it.
func init() {
	fpdf.SetDefaultCreationDate(time.Unix(0, 0).UTC())
	fpdf.SetDefaultModificationDate(time.Unix(0, 0).UTC())
	fpdf.SetDefaultCatalogSort(true)
}

// formats gives the picture as files: their endings and contents.
func (f *picture) formats() (map[string][]byte, error) {
	out := map[string][]byte{}
	png := vgimg.NewWith(vgimg.UseWH(f.width, f.height), vgimg.UseDPI(pngDPI))
	for ending, canvas := range map[string]interface {
		vg.CanvasSizer
		io.WriterTo
	}{
		"pdf": vgpdf.New(f.width, f.height),
		"svg": vgsvg.NewWith(vgsvg.UseWH(f.width, f.height), vgsvg.EmbedFonts(true)),
		"png": vgimg.PngCanvas{Canvas: png},
	} {
		b, err := f.render(canvas)
		if err != nil {
			return nil, fmt.Errorf("draw as %s: %w", ending, err)
		}
		out[ending] = b
	}
	return out, nil
}

// inline is the picture as an SVG element; the page has the font.
func (f *picture) inline() ([]byte, error) {
	b, err := f.render(vgsvg.New(f.width, f.height))
	if err != nil {
		return nil, fmt.Errorf("draw as svg: %w", err)
	}
	return b[bytes.Index(b, []byte("<svg")):], nil
}

func (f *picture) render(canvas interface {
	vg.CanvasSizer
	io.WriterTo
}) ([]byte, error) {
	f.draw(canvas)
	var b bytes.Buffer
	_, err := canvas.WriteTo(&b)
	return b.Bytes(), err
}
