//! Release names of version ordinals (spec/wire.md §2.3; the original's `MQVersion`).

/// Ordinal of V3_0_0_SNAPSHOT's line of 3.x is irregular; what is still in use is listed.
const THREE: [(i32, &str); 4] = [
    (79, "V3_2_6"),
    (115, "V3_4_6"),
    (137, "V3_5_8"),
    (143, "V3_6_2"),
];

/// The name that the original prints for a client's or broker's version.
///
/// From 4.0.0 on the ordinals are regular: 20 per minor release, 2 per patch, the odd one before a release being
/// its snapshot.
pub(crate) fn version_name(ordinal: i32) -> String {
    if let Some((_, name)) = THREE.iter().find(|(number, _)| *number == ordinal) {
        return (*name).to_owned();
    }
    let (major, base) = match ordinal {
        213..=412 => (4, 213),
        413..=611 => (5, 413),
        612.. => return "HIGHER_VERSION".to_owned(),
        _ => return format!("V3_ordinal_{ordinal}"),
    };
    let (minor, within) = ((ordinal - base) / 20, (ordinal - base) % 20);
    if within % 2 == 0 {
        format!("V{major}_{minor}_{}", within / 2)
    } else if within == 19 {
        format!("V{major}_{}_0_SNAPSHOT", minor + 1)
    } else {
        format!("V{major}_{minor}_{}_SNAPSHOT", within / 2 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_releases_of_the_table() {
        let table = [
            (213, "V4_0_0"),
            (317, "V4_5_2"),
            (399, "V4_9_3"),
            (409, "V4_9_8"),
            (413, "V5_0_0"),
            (441, "V5_1_4"),
            (479, "V5_3_3"),
            (493, "V5_4_0"),
            (612, "HIGHER_VERSION"),
            (79, "V3_2_6"),
            (478, "V5_3_3_SNAPSHOT"),
        ];
        for (ordinal, name) in table {
            assert_eq!(version_name(ordinal), name);
        }
    }
}
