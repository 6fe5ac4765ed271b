//! Bits per weight against KL divergence, as a picture: plans as a curve, single points beside it.

use plotters::prelude::*;

const SIZE: (u32, u32) = (860, 520);
const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(40, 40, 40);
const COLOURS: [RGBColor; 4] =
    [RGBColor(31, 99, 180), RGBColor(200, 50, 40), RGBColor(30, 140, 60), RGBColor(221, 132, 40)];

/// Points (bits per weight, KL in nats) under a name.
#[derive(Clone, Debug)]
pub struct Series {
    /// What they are, for the legend.
    pub name: String,
    /// The points; those without a positive KL have no place on its scale and are left out.
    pub points: Vec<(f64, f64)>,
    /// Joined by lines rather than marked.
    pub line: bool,
}

/// The picture as SVG; KL on a logarithmic scale.
///
/// # Errors
/// If there is no point, or the picture cannot be drawn.
pub fn draw(title: &str, series: &[Series]) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    let drawn = |s: &Series| s.points.iter().copied().filter(|p| p.1 > 0.0 && p.1.is_finite()).collect::<Vec<_>>();
    let all: Vec<(f64, f64)> = series.iter().flat_map(drawn).collect();
    let range = |of: fn(&(f64, f64)) -> f64| {
        let values = all.iter().map(of);
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)))
    };
    let ((left, right), (low, high)) = (range(|p| p.0), range(|p| p.1));
    if all.is_empty() {
        return Err("no point has a positive KL divergence".into());
    }
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .caption(title, (FONT, 20, &INK))
            .margin(14)
            .x_label_area_size(40)
            .y_label_area_size(70)
            .build_cartesian_2d(left - 0.3..right + 0.3, (low / 2.0..high * 2.0).log_scale())?;
        chart
            .configure_mesh()
            .x_desc("bits per weight")
            .y_desc("mean KL, nats")
            .y_label_formatter(&|y| format!("{y:.0e}"))
            .label_style((FONT, 13, &INK))
            .draw()?;
        for (i, s) in series.iter().enumerate() {
            let colour = COLOURS[i % COLOURS.len()];
            let legend = move |(x, y)| Circle::new((x + 8, y), 4, colour.filled());
            if s.line {
                chart.draw_series(LineSeries::new(drawn(s), colour.stroke_width(2)))?.label(&s.name).legend(legend);
            } else {
                let marks = drawn(s).into_iter().map(|p| Circle::new(p, 4, colour.filled()));
                chart.draw_series(marks)?.label(&s.name).legend(legend);
            }
        }
        chart.configure_series_labels().background_style(WHITE.mix(0.8)).label_font((FONT, 13, &INK)).draw()?;
        root.present()?;
    }
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_is_drawn_and_named() {
        let series =
            |name: &str, points: &[(f64, f64)], line| Series { name: name.into(), points: points.into(), line };
        let all =
            [series("plans", &[(2.0, 0.5), (4.0, 0.01)], true), series("uniform", &[(4.5, 0.02), (9.0, 0.0)], false)];
        let svg = draw("model.gguf", &all).unwrap();
        for part in ["plans", "uniform", "model.gguf", "bits per weight", "mean KL"] {
            assert!(svg.contains(part), "{part} is not in the picture");
        }
        // The point without KL is not: one mark and two of the legend.
        assert_eq!(svg.matches("<circle").count(), 3);
        assert!(draw("nothing", &[series("none", &[(1.0, 0.0)], false)]).is_err());
    }
}
