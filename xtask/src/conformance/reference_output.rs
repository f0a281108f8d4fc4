//! tcptrace's own reference outputs (`NAME.long` beside a capture): whether the tcptrace that runs
//! here says the same.

use std::{fs, path::Path};

use super::tcptrace::{Connection, Figures};

/// What the file beside a capture says that the run does not; `None` where there is no file or no
/// difference.
pub fn disagreement(capture: &Path, run: &[Connection]) -> Option<String> {
    let mut path = capture.as_os_str().to_owned();
    path.push(".long");
    let text = fs::read(path).ok()?;
    let reference = connections(&String::from_utf8_lossy(&text));
    let run: Vec<_> = run
        .iter()
        .map(|connection| connection.directions.map(counts))
        .collect();
    (reference != run).then(|| {
        format!("tcptrace's reference output says {reference:?}, the one that runs here {run:?}")
    })
}

/// Payload bytes, packets, retransmitted and out of order, from a to b and from b to a.
type Counts = [[u64; 4]; 2];

fn counts(figures: Figures) -> [u64; 4] {
    let Figures {
        bytes,
        frames,
        retransmitted,
        out_of_order,
        ..
    } = figures;
    [bytes, frames, retransmitted, out_of_order]
}

const LABELS: [&str; 4] = [
    "actual data bytes:",
    "actual data pkts:",
    "rexmt data pkts:",
    "outoforder pkts:",
];

/// Two columns a connection: `rexmt data pkts:  1   rexmt data pkts:  2`.
fn connections(text: &str) -> Vec<Counts> {
    let mut connections: Vec<Counts> = Vec::new();
    for line in text.lines() {
        let line = line.trim();
        if line.starts_with("TCP connection ")
            && line.ends_with(':')
            && line != "TCP connection info:"
        {
            connections.push(Counts::default());
        }
        let Some(connection) = connections.last_mut() else {
            continue;
        };
        for (index, label) in LABELS.into_iter().enumerate() {
            if let Some(columns) = line.strip_prefix(label)
                && let Some((a_to_b, b_to_a)) = columns.split_once(label)
            {
                let count = |column: &str| column.trim().parse().unwrap_or(0);
                connection[0][index] = count(a_to_b);
                connection[1][index] = count(b_to_a);
            }
        }
    }
    connections
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_columns_of_a_long_output() {
        let text = "\
TCP connection info:
1 TCP connection traced:
TCP connection 1:
     actual data pkts:          5           actual data pkts:          8
     actual data bytes:      1615           actual data bytes:      8733
     rexmt data pkts:           1           rexmt data pkts:           2
     outoforder pkts:           0           outoforder pkts:           1
";
        assert_eq!(connections(text), [[[1615, 5, 1, 0], [8733, 8, 2, 1]]]);
        assert_eq!(connections("no traced TCP packets"), Vec::<Counts>::new());
    }
}
