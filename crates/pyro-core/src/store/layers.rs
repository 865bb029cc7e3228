//! Layers of disks: what stands on what, and what nothing needs any more.
//!
//! A layer is alive while it is a workspace's top, a snapshot, or below an alive layer. New layers only
//! ever stand on alive ones, so a dead layer stays dead.

use super::ids::LayerId;
use super::row::{Damaged, Fields};
use super::values::LayerState;
use super::{Durability, LayerFault, Millis, StateStore, StoreError};
use rusqlite::{OptionalExtension, Transaction, params};
use std::collections::{HashMap, HashSet};

/// Layers on top of each other: what one machine's disk can have below its top, and that. Each read of a
/// block may have to look into all of them.
pub const CHAIN_LAYERS: usize = pyro_vmm::block::MAX_LAYERS + 1;

/// A layer on record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerRecord {
    /// Its id.
    pub id: LayerId,
    /// What it stands on; `None` is the base image.
    pub parent: Option<LayerId>,
    /// The base image under all of them.
    pub base_key: String,
    /// Whether it may still change.
    pub state: LayerState,
    /// When it was made.
    pub created_at: Millis,
}

/// `UNION` drops what is there already, so this ends even where layers stand on each other in a ring.
const ALIVE: &str = "WITH RECURSIVE alive (id) AS ( \
        SELECT top_layer FROM workspaces UNION SELECT layer FROM snapshots \
        UNION SELECT layers.parent FROM layers JOIN alive ON layers.id = alive.id WHERE layers.parent IS NOT NULL)";

/// References to layers that are not there: some record is damaged, and what it needed cannot be told.
pub(super) const DANGLING: &str = "\
    SELECT 'workspace ' || id || ' needs layer ' || top_layer FROM workspaces \
        WHERE top_layer NOT IN (SELECT id FROM layers) \
    UNION ALL SELECT 'snapshot ' || name || ' of workspace ' || workspace || ' needs layer ' || layer \
        FROM snapshots WHERE layer NOT IN (SELECT id FROM layers) \
    UNION ALL SELECT 'layer ' || id || ' needs layer ' || parent FROM layers \
        WHERE parent IS NOT NULL AND parent NOT IN (SELECT id FROM layers)";

/// The base of a layer that is announced: whoever puts it on record says which it is.
const ANNOUNCED: &str = "";

impl StateStore {
    /// Names a layer whose file is about to be made, so that the file is not forgotten should its maker die:
    /// until a workspace or a layer needs it, it is garbage. Who collects garbage must be kept from it.
    pub fn announce_layer(&self, layer: LayerId, now: Millis) -> Result<(), StoreError> {
        self.write(Durability::System, |tx| insert(tx, layer, None, ANNOUNCED, now))
    }

    /// A layer and all below it, the lowest first.
    pub fn chain(&self, layer: LayerId) -> Result<Vec<LayerRecord>, StoreError> {
        self.read(|tx| {
            let mut chain = chain(tx, layer)?;
            chain.reverse();
            Ok(chain)
        })
    }

    /// All layers, for comparison with the files that are there.
    pub fn layers(&self) -> Result<Vec<LayerRecord>, StoreError> {
        self.read(|tx| {
            let mut select = tx.prepare("SELECT * FROM layers ORDER BY id")?;
            let mut rows = select.query([])?;
            let mut layers = Vec::new();
            while let Some(row) = rows.next()? {
                layers.push(parse(&Fields::new(row, "id"))?);
            }
            Ok(layers)
        })
    }

    /// Base images that some layer or workspace needs.
    pub fn base_keys(&self) -> Result<HashSet<String>, StoreError> {
        self.read(|tx| {
            let sql = "SELECT base_key FROM layers UNION SELECT base_key FROM workspaces";
            let mut select = tx.prepare(sql)?;
            let keys = select.query_map([], |row| row.get(0))?;
            Ok(keys.collect::<Result<_, _>>()?)
        })
    }

    /// Layers that nothing needs, the highest of each stack first: the order in which to remove their files
    /// and forget them. None while a damaged record hides what it needs.
    pub fn garbage_layers(&self) -> Result<Vec<LayerId>, StoreError> {
        self.read(|tx| {
            if tx.query_one(&format!("SELECT EXISTS ({DANGLING})"), [], |row| row.get(0))? {
                return Ok(Vec::new());
            }
            let mut select =
                tx.prepare(&format!("{ALIVE} SELECT * FROM layers WHERE id NOT IN alive ORDER BY id"))?;
            let mut rows = select.query([])?;
            let mut garbage = Vec::new();
            while let Some(row) = rows.next()? {
                // What cannot be read cannot be removed either; the check tells of it.
                garbage.extend(parse(&Fields::new(row, "id")));
            }
            Ok(highest_first(&garbage))
        })
    }

    /// Forgets a layer that nothing needs, not even garbage on top of it. Tells whether it was there.
    pub fn forget_layer(&self, layer: LayerId) -> Result<bool, StoreError> {
        self.write(Durability::Disk, |tx| {
            let sql = format!(
                "{ALIVE} SELECT ?1 IN alive OR EXISTS (SELECT 1 FROM layers WHERE parent = ?1) \
                 OR EXISTS ({DANGLING})"
            );
            if tx.query_one(&sql, [layer], |row| row.get(0))? {
                return Err(StoreError::Layer { layer, fault: LayerFault::Used });
            }
            Ok(tx.execute("DELETE FROM layers WHERE id = ?1", [layer])? == 1)
        })
    }

    /// Pairs of a layer and the only one that stands on it, both sealed, where the lower serves no other
    /// purpose: one layer could take the place of both.
    pub fn mergeable_layers(&self) -> Result<Vec<(LayerId, LayerId)>, StoreError> {
        self.read(|tx| {
            let mut select = tx.prepare(&format!(
                "{ALIVE} SELECT lower.id, max(upper.id) FROM layers AS lower JOIN layers AS upper \
                    ON upper.parent = lower.id \
                 WHERE lower.id IN alive AND lower.state = 'sealed' \
                    AND lower.id NOT IN (SELECT layer FROM snapshots) \
                    AND lower.id NOT IN (SELECT top_layer FROM workspaces) \
                 GROUP BY lower.id HAVING count(*) = 1 AND max(upper.state) = 'sealed' ORDER BY lower.id"
            ))?;
            let pairs = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok(pairs.collect::<Result<_, _>>()?)
        })
    }

    /// Puts `merged`, whose file holds what `lower` and `upper` hold together, in the place of both. They
    /// are garbage from then on. Refused where [`StateStore::mergeable_layers`] would not name them.
    pub fn replace_layers(
        &self,
        lower: LayerId,
        upper: LayerId,
        merged: LayerId,
        now: Millis,
    ) -> Result<(), StoreError> {
        self.write(Durability::Disk, |tx| {
            let below = select_alive(tx, lower)?;
            let above = select_alive(tx, upper)?;
            if above.parent != Some(lower) {
                return Err(StoreError::Layer { layer: lower, fault: LayerFault::Elsewhere });
            }
            for one in [&below, &above] {
                if one.state != LayerState::Sealed {
                    return Err(StoreError::Layer { layer: one.id, fault: LayerFault::State(one.state) });
                }
            }
            let used = "SELECT EXISTS (SELECT 1 FROM layers WHERE parent = ?1 AND id <> ?2) \
                OR EXISTS (SELECT 1 FROM snapshots WHERE layer = ?1) \
                OR EXISTS (SELECT 1 FROM workspaces WHERE top_layer = ?1)";
            if tx.query_one(used, [lower, upper], |row| row.get(0))? {
                return Err(StoreError::Layer { layer: lower, fault: LayerFault::Used });
            }
            insert(tx, merged, below.parent, &below.base_key, now)?;
            tx.execute("UPDATE layers SET state = ?2 WHERE id = ?1", params![merged, LayerState::Sealed])?;
            tx.execute("UPDATE layers SET parent = ?2 WHERE parent = ?1", [upper, merged])?;
            tx.execute("UPDATE snapshots SET layer = ?2 WHERE layer = ?1", [upper, merged])?;
            Ok(())
        })
    }
}

/// Puts an open layer on record, announced or not. What it stands on must be alive and sealed.
pub(super) fn insert(
    tx: &Transaction<'_>,
    layer: LayerId,
    parent: Option<LayerId>,
    base_key: &str,
    now: Millis,
) -> Result<(), StoreError> {
    if let Some(parent) = parent {
        let below = select_alive(tx, parent)?;
        let fail = |fault| Err(StoreError::Layer { layer: parent, fault });
        if below.state != LayerState::Sealed {
            return fail(LayerFault::State(below.state));
        }
        if below.base_key != base_key {
            return fail(LayerFault::OtherBase);
        }
        if chain(tx, parent)?.len() >= CHAIN_LAYERS {
            return fail(LayerFault::TooDeep);
        }
    }
    let inserted = tx.execute(
        "INSERT INTO layers (id, parent, base_key, state, created_at) VALUES (?1, ?2, ?3, ?4, ?5) \
         ON CONFLICT (id) DO UPDATE SET parent = excluded.parent, base_key = excluded.base_key, \
            created_at = excluded.created_at WHERE layers.base_key = ?6 AND excluded.base_key <> ?6",
        params![layer, parent, base_key, LayerState::Open, now, ANNOUNCED],
    )?;
    match inserted {
        0 => Err(StoreError::Layer { layer, fault: LayerFault::Exists }),
        _ => Ok(()),
    }
}

/// A layer and all below it, the highest first.
pub(super) fn chain(tx: &Transaction<'_>, layer: LayerId) -> Result<Vec<LayerRecord>, StoreError> {
    let mut chain: Vec<LayerRecord> = Vec::new();
    let mut seen = HashSet::new();
    let mut next = Some(layer);
    while let Some(id) = next {
        if !seen.insert(id) {
            return Err(StoreError::Layer { layer: id, fault: LayerFault::Loop });
        }
        if chain.len() >= CHAIN_LAYERS {
            return Err(StoreError::Layer { layer, fault: LayerFault::TooDeep });
        }
        let record = select(tx, id)?;
        next = record.parent;
        chain.push(record);
    }
    Ok(chain)
}

fn select(tx: &Transaction<'_>, layer: LayerId) -> Result<LayerRecord, StoreError> {
    let sql = "SELECT * FROM layers WHERE id = ?1";
    let found = tx.query_row(sql, [layer], |row| Ok(parse(&Fields::new(row, "id")))).optional()?;
    Ok(found.ok_or(StoreError::Layer { layer, fault: LayerFault::Missing })??)
}

fn select_alive(tx: &Transaction<'_>, layer: LayerId) -> Result<LayerRecord, StoreError> {
    let record = select(tx, layer)?;
    match tx.query_one(&format!("{ALIVE} SELECT ?1 IN alive"), [layer], |row| row.get(0))? {
        true => Ok(record),
        false => Err(StoreError::Layer { layer, fault: LayerFault::Garbage }),
    }
}

fn parse(fields: &Fields<'_>) -> Result<LayerRecord, Damaged> {
    Ok(LayerRecord {
        id: fields.get("id")?,
        parent: fields.get("parent")?,
        base_key: fields.get("base_key")?,
        state: fields.get("state")?,
        created_at: fields.get("created_at")?,
    })
}

/// What stands on another comes before it.
fn highest_first(layers: &[LayerRecord]) -> Vec<LayerId> {
    let parents: HashMap<LayerId, Option<LayerId>> =
        layers.iter().map(|layer| (layer.id, layer.parent)).collect();
    let height = |layer: &LayerRecord| {
        let mut height = 0;
        let mut next = layer.parent;
        // In a ring nothing is highest; its layers are garbage that stays.
        while let Some(parent) = next.filter(|_| height <= layers.len()) {
            height += 1;
            next = parents.get(&parent).copied().flatten();
        }
        height
    };
    let mut sorted: Vec<(usize, LayerId)> = layers.iter().map(|layer| (height(layer), layer.id)).collect();
    sorted.sort_by_key(|(height, id)| (std::cmp::Reverse(*height), *id));
    sorted.into_iter().map(|(_, id)| id).collect()
}
