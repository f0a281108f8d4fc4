//! Configuration files of the lab's BGP routers: FRR on our edge, BIRD on the ISPs' borders.
//!
//! Every ISP announces all of its prefixes on every exchange, as networks do, and prepends its own
//! AS where it does not want to be sent a prefix: so our edge has a choice, and has chosen well
//! only if it compared.

use std::fmt::Write as _;

use crate::addresses::{EDGE_ASN, VIDEO_ADDRESS, exchange_border, exchange_edge, gateway};
use crate::plan::Plan;
use crate::routes::{BMP_PORT, Ways};

/// So often an ISP prepends its AS where it does not want a prefix to be sent.
const PREPENDED: usize = 2;

/// FRR's `bgpd` on our edge: all neighbours, and a BMP session to the video host.
#[must_use]
pub fn edge_bgpd(plan: &Plan) -> String {
    let mut text = format!(
        "log stdout informational\n\
         router bgp {EDGE_ASN}\n \
         bgp router-id {}\n \
         no bgp ebgp-requires-policy\n",
        gateway(VIDEO_ADDRESS)
    );
    for exchange in 0..plan.interconnects.len() {
        for (isp, asn) in plan.asns.iter().enumerate() {
            let neighbour = exchange_border(exchange, isp);
            // Writing to a string cannot fail.
            let _ = write!(
                text,
                " neighbor {neighbour} remote-as {asn}\n neighbor {neighbour} passive\n"
            );
        }
    }
    let _ = write!(
        text,
        " bmp targets lastmile\n  \
         bmp monitor ipv4 unicast post-policy\n  \
         bmp connect {VIDEO_ADDRESS} port {BMP_PORT} min-retry 200 max-retry 1000\n \
         exit\nexit\n"
    );
    text
}

/// BIRD on an ISP's border router.
#[must_use]
pub fn border_bird(plan: &Plan, ways: &Ways, isp: usize) -> String {
    let asn = plan.asns[isp];
    let own = || ways.0.iter().filter(move |way| way.isp == isp);
    let mut text = format!(
        "log stderr {{ warning, error, fatal, bug }};\n\
         router id {};\n\
         protocol device {{ }}\n\
         protocol static prefixes {{\n  ipv4;\n",
        exchange_border(0, isp)
    );
    for way in own() {
        let _ = writeln!(text, "  route {} unreachable;", way.prefix);
    }
    text += "}\n";
    for exchange in 0..plan.interconnects.len() {
        let wanted: Vec<&str> = own()
            .filter(|way| way.interconnect == exchange)
            .map(|way| way.prefix.as_str())
            .collect();
        let mut filter = String::new();
        if !wanted.is_empty() {
            let _ = write!(filter, "if net ~ [ {} ] then accept; ", wanted.join(", "));
        }
        filter += &format!("bgp_path.prepend({asn}); ").repeat(PREPENDED);
        let _ = write!(
            text,
            "protocol bgp exchange_{} {{\n  \
             local {} as {asn};\n  \
             neighbor {} as {EDGE_ASN};\n  \
             connect delay time 1;\n  connect retry time 1;\n  error wait time 1, 2;\n  \
             ipv4 {{ import none; export filter {{ {filter}accept; }}; }};\n}}\n",
            exchange + 1,
            exchange_border(exchange, isp),
            exchange_edge(exchange),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    #[test]
    fn an_isp_announces_everything_everywhere_and_prepends_where_it_wants_nothing() {
        let plan = Plan::new(&Scenario::load("healthy").unwrap()).unwrap();
        let text = border_bird(&plan, &Ways::at_first(&plan), 1);
        assert_eq!(text.matches("unreachable").count(), 8);
        let east = text.lines().find(|line| line.contains("export")).unwrap();
        assert!(
            east.contains(
                "if net ~ [ 198.18.4.0/24, 198.18.5.0/24, 198.18.6.0/24, 198.18.7.0/24 ]"
            ),
            "{east}"
        );
        assert_eq!(east.matches("bgp_path.prepend(64502)").count(), PREPENDED);
    }

    #[test]
    fn the_edge_has_every_isp_as_neighbour_on_every_exchange() {
        let plan = Plan::new(&Scenario::load("healthy").unwrap()).unwrap();
        let text = edge_bgpd(&plan);
        for (address, asn) in [
            ("10.0.0.10", 64501),
            ("10.0.0.11", 64502),
            ("10.0.1.10", 64501),
            ("10.0.1.11", 64502),
        ] {
            assert!(text.contains(&format!("neighbor {address} remote-as {asn}\n")));
        }
    }
}
